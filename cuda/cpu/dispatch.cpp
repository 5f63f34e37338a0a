#include "dispatch.h"

#include <atomic>
#include <cstring>
#include <initializer_list>

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace nfc {

namespace baseline {
extern const Kernels kernel_table;
}
#if defined(NFC_X86)
namespace avx2 {
extern const Kernels kernel_table;
}
namespace avx512 {
extern const Kernels kernel_table;
}

#if defined(_MSC_VER)
static bool has_register_state(unsigned long long bits) { return (_xgetbv(0) & bits) == bits; }
static bool has_avx2() {
  int leaf1[4], leaf7[4];
  __cpuid(leaf1, 1), __cpuidex(leaf7, 7, 0);
  const bool osxsave = leaf1[2] >> 27 & 1, fma = leaf1[2] >> 12 & 1, avx2 = leaf7[1] >> 5 & 1;
  return osxsave && fma && avx2 && has_register_state(0x6);
}
static bool has_avx512() {
  int leaf7[4];
  __cpuidex(leaf7, 7, 0);
  const int needed = 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | int(1u << 31);  // F, DQ, CD, BW, VL
  return has_avx2() && (leaf7[1] & needed) == needed && has_register_state(0xE6);
}
#else
static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
#endif
#endif

namespace {

std::atomic<const Kernels*> chosen{nullptr};

// Null if this machine cannot run them.
const Kernels* kernels_by_name(const char* name) {
#if defined(NFC_X86)
  if (!strcmp(name, "avx512")) return has_avx512() ? &avx512::kernel_table : nullptr;
  if (!strcmp(name, "avx2")) return has_avx2() ? &avx2::kernel_table : nullptr;
#endif
  return strcmp(name, "baseline") ? nullptr : &baseline::kernel_table;
}

const Kernels* best_kernels() {
  for (const char* name : {"avx512", "avx2"})
    if (const Kernels* found = kernels_by_name(name)) return found;
  return kernels_by_name("baseline");
}

}  // namespace

const Kernels& kernels() {
  if (!chosen.load()) chosen.store(best_kernels());
  return *chosen.load();
}

bool use_kernels(const char* name) {
  const Kernels* found = kernels_by_name(name);
  if (found) chosen.store(found);
  return found != nullptr;
}

}  // namespace nfc
