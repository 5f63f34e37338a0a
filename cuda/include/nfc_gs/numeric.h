// The few numeric operations that the splat mathematics needs beyond + - * /, for plain floats.
// The mathematics is templated on the number type F: `float` on a GPU thread, a SIMD vector of Gaussians on the CPU
// (cuda/cpu/kernels/simd.h gives the same operations for vectors).
#pragma once

#if !defined(__CUDACC_RTC__)  // NVRTC has these operations built in, and no headers of the standard library
#include <cmath>
#include <cstdint>
#include <cstring>
#endif

#if defined(__CUDACC__)
#define NFC_HD __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define NFC_HD __forceinline
#else
#define NFC_HD inline __attribute__((always_inline))
#endif

#if defined(__GNUC__) && !defined(__CUDACC__)
#define NFC_PREFETCH(address) __builtin_prefetch(address)
#else
#define NFC_PREFETCH(address)
#endif

// Every translation unit that is compiled for its own instruction set has a namespace of its own: the linker must
// never take an inline function from a unit that this machine cannot run.
#ifndef NFC_ISA
#define NFC_ISA portable
#endif

namespace nfc {

// The upper half of a float.
struct BFloat16 {
  unsigned short pattern;
};

inline namespace NFC_ISA {

NFC_HD float select(bool mask, float yes, float no) { return mask ? yes : no; }
NFC_HD float minimum(float a, float b) { return a < b ? a : b; }
NFC_HD float maximum(float a, float b) { return a > b ? a : b; }
NFC_HD float square_root(float a) { return sqrtf(a); }
NFC_HD float reciprocal(float a) { return 1.0f / a; }
NFC_HD float log_2(float a) { return log2f(a); }
NFC_HD bool both(bool a, bool b) { return a && b; }
NFC_HD unsigned bit_pattern(float a) {
#if defined(__CUDACC_RTC__)
  return __float_as_uint(a);
#else
  unsigned pattern;
  memcpy(&pattern, &a, sizeof pattern);
  return pattern;
#endif
}
NFC_HD float from_pattern(unsigned pattern) {
#if defined(__CUDACC_RTC__)
  return __uint_as_float(pattern);
#else
  float a;
  memcpy(&a, &pattern, sizeof a);
  return a;
#endif
}
NFC_HD float widened(float value) { return value; }
NFC_HD float widened(BFloat16 value) { return from_pattern(unsigned(value.pattern) << 16); }
NFC_HD void narrow(float value, float* to) { *to = value; }
NFC_HD void narrow(float value, BFloat16* to) { to->pattern = (unsigned short)(bit_pattern(value) >> 16); }
NFC_HD float sigmoid(float a) { return 1.0f / (1.0f + expf(-a)); }

template <class F>
struct Vec3 {
  F x, y, z;
};

template <class F>
NFC_HD F dot(const Vec3<F>& a, const Vec3<F>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <class F>
NFC_HD Vec3<F> cross(const Vec3<F>& a, const Vec3<F>& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

}  // namespace NFC_ISA
}  // namespace nfc
