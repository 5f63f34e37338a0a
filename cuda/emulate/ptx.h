// What PTX instructions do, in C++ over device.h: ptx.py writes calls of these. A register is an unsigned integer of
// its size, a predicate a bool; operands are converted to the type of the instruction before they arrive here.
//
// Semantics: NVIDIA, "Parallel Thread Execution ISA", chapter "Instruction Set".
#pragma once

#include <cfenv>
#include <limits>
#include <type_traits>

#include "device.h"

namespace emulate {

// ---- registers ------------------------------------------------------------------------------------------------------

template <class T, class S>
T as(S value) {
  static_assert(sizeof(T) == sizeof(S));
  T result;
  std::memcpy(&result, &value, sizeof(T));
  return result;
}

inline uint32_t bits(float value) { return as<uint32_t>(value); }
inline uint64_t bits(double value) { return as<uint64_t>(value); }

// ---- arithmetic of integers -----------------------------------------------------------------------------------------

template <class T>
constexpr int kBits = 8 * sizeof(T);

template <class T>
T high_product(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  return T((Wide(a) * Wide(b)) >> kBits<T>);
}

template <class T>
void check_divisor(T b) {
  if (b == 0) fail("a division of integers by zero");
}

template <class T>
T divide(T a, T b) {
  check_divisor(b);
  return std::is_signed_v<T> && b == T(-1) ? T(-a) : T(a / b);
}

template <class T>
T remainder_of(T a, T b) {
  check_divisor(b);
  return std::is_signed_v<T> && b == T(-1) ? T(0) : T(a % b);
}

// Shifts by more than the width leave nothing but signs.
template <class T>
T shift_left(T a, uint32_t by) {
  return by < kBits<T> ? T(a << by) : T(0);
}

template <class T>
T shift_right(T a, uint32_t by) {
  return T(a >> (by < kBits<T> ? by : kBits<T> - 1)) & (std::is_signed_v<T> || by < kBits<T> ? T(-1) : T(0));
}

// The 32 bits of the pair (high, low) that are high, or low, after a shift by up to 32.
inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t by) {
  return uint32_t((uint64_t(high) << 32 | low) << by >> 32);
}

inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t by) {
  return uint32_t((uint64_t(high) << 32 | low) >> by);
}

template <class T>
uint32_t leading_zeros(T a) {
  return a ? uint32_t(__builtin_clzll(a)) - (64 - kBits<T>) : uint32_t(kBits<T>);
}

template <class T>
T reversed(T a) {
  T result = 0;
  for (int i = 0; i < kBits<T>; ++i) result |= (a >> i & 1) << (kBits<T> - 1 - i);
  return result;
}

// The place of the highest bit that differs from the sign, or all ones.
template <class T>
uint32_t highest_bit(T a) {
  using U = std::make_unsigned_t<T>;
  return kBits<T> - 1 - leading_zeros(U(a < 0 ? ~a : a));
}

// The field of `length` bits from bit `start` on, beyond whose ends there are zeros or copies of the sign.
template <class T>
T extract(T a, uint32_t start, uint32_t length) {
  start &= 255, length &= 255;
  if (length == 0) return 0;
  const uint32_t last = std::min<uint32_t>(start + length - 1, kBits<T> - 1);
  const bool sign = std::is_signed_v<T> && (a >> last & 1);
  T result = 0;
  for (uint32_t i = 0; i < kBits<T>; ++i) {
    const bool bit = i < length && start + i < kBits<T> ? bool(a >> (start + i) & 1) : sign;
    result = T(result | T(T(bit) << i));
  }
  return result;
}

// b with the low `length` bits of a at bit `start`.
template <class T>
T insert(T a, T b, uint32_t start, uint32_t length) {
  const T field = shift_left(T((length & 255) < kBits<T> ? (T(1) << (length & 255)) - 1 : T(-1)), start & 255);
  return (b & ~field) | (shift_left(a, start & 255) & field);
}

// The place of the bit that is the offset-th set one from `base` on: upwards, or downwards if negative.
inline uint32_t nth_set_bit(uint32_t mask, uint32_t base, int offset) {
  if (offset == 0) return mask >> (base & 31) & 1 ? base : 0xffffffffu;
  const int step = offset > 0 ? 1 : -1;
  int left = std::abs(offset);
  for (int i = int(base); i >= 0 && i < 32; i += step)
    if ((mask >> i & 1) && --left == 0) return uint32_t(i);
  return 0xffffffffu;
}

// Any function of three bits: bit abc of the table.
inline uint32_t of_three(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i)
    result |= (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i;
  return result;
}

// Four of the eight bytes of a and b, or the signs of them.
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i);
    const uint32_t byte = uint32_t((uint64_t(b) << 32 | a) >> (8 * (choice & 7))) & 0xff;
    result |= (choice & 8 ? (byte >> 7 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return result;
}

// ---- arithmetic of floating-point numbers ---------------------------------------------------------------------------

// An operation under another mode of rounding. What is volatile cannot be computed before or after the mode is set.
template <class F, class... T>
auto rounded(int mode, F operation, T... operands) {
  const int before = std::fegetround();
  std::fesetround(mode);
  volatile auto result = [&](volatile T&... operand) { return operation(T(operand)...); }(operands...);
  std::fesetround(before);
  return std::remove_volatile_t<decltype(result)>(result);
}

// Subnormal numbers become zeros of their sign.
inline float flushed(float a) { return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0f, a) : a; }
inline double flushed(double a) { return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0, a) : a; }

template <class T>
T saturated(T a) {
  return a > 0 ? (a < 1 ? a : T(1)) : T(0);  // and not-a-number becomes 0
}

template <class T>
T minimum(T a, T b) {  // of a number and something that is none, the number
  if (a != a || b != b) return a != a ? b : a;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}

template <class T>
T maximum(T a, T b) {
  return -minimum(T(-a), T(-b));
}

template <class T>
bool unordered(T a, T b) {
  return a != a || b != b;
}

// A number that has been rounded to an integer, as that; the nearest there is if it is out of range.
template <class T, class F>
T to_integer(F a) {
  if (a != a) return sizeof(F) == 8 || sizeof(T) == 8 ? T(T(1) << (kBits<T> - 1)) : T(0);
  const F end = std::ldexp(F(1), kBits<T> - (std::is_signed_v<T> ? 1 : 0));
  const F begin = std::is_signed_v<T> ? -end : F(0);
  if (a >= end) return std::numeric_limits<T>::max();
  return a <= begin ? std::numeric_limits<T>::min() : T(a);
}

// An integer as one of another type, the nearest there is.
template <class T, class S>
T clamped(S a) {
  const __int128 low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  return T(std::min(std::max(__int128(a), low), high));
}

// ---- memory ---------------------------------------------------------------------------------------------------------

// Global, constant and local memory, and the kernel's argument: addresses are pointers.
struct Global {
  static void aligned(uint64_t address, unsigned size) {
    if (address % size) fail("an access of " + std::to_string(size) + " bytes to global memory is not aligned");
  }

  template <class T>
  static T load(uint64_t address) {
    T value;
    std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof(T));
    return value;
  }

  template <class T>
  static void store(uint64_t address, T value) {
    std::memcpy(reinterpret_cast<void*>(address), &value, sizeof(T));
  }

  template <class T, class F>
  static T atomic(uint64_t address, F next) {
    const T before = load<T>(address);
    store<T>(address, next(before));
    return before;
  }
};

inline Global global;

struct SharedArray {
  const char* name;
  unsigned align, size;
};

// The shared memory of a kernel, watched in units of the smallest access that the kernel makes. Arrays are far apart,
// so that what is out of bounds of one is within no other, and are aligned to no more than they ask for.
template <int Unit>
class SharedMemory {
 public:
  explicit SharedMemory(const std::vector<SharedArray>& arrays) {
    for (const SharedArray& array : arrays) arrays_.emplace_back(array);
  }

  void aligned(uint64_t address, unsigned size) {
    if (address % size) {
      const auto place = place_of(uint32_t(address));
      fail(place() + ": an access of " + std::to_string(size) + " bytes is not aligned");
    }
  }

  template <class T>
  T load(uint64_t address) {
    const auto read = [](Shadow& s, auto place) { check_read(s, place); };
    T value;
    std::memcpy(&value, access(uint32_t(address), sizeof(T), read), sizeof(T));
    return value;
  }

  template <class T>
  void store(uint64_t address, T value) {
    const auto write = [](Shadow& s, auto place) { check_write(s, place); };
    std::memcpy(access(uint32_t(address), sizeof(T), write), &value, sizeof(T));
  }

  template <class T, class F>
  T atomic(uint64_t address, F next) {
    T before;
    char* const content = access(uint32_t(address), sizeof(T), [](Shadow& s, auto place) {
      if (s.written_in != block.id) fail(place() + " is read before it is written");
      check_write(s, place, true);
    });
    std::memcpy(&before, content, sizeof(T));
    const T after = next(before);
    std::memcpy(content, &after, sizeof(T));
    return before;
  }

 private:
  struct Array : SharedArray {
    explicit Array(const SharedArray& array)
        : SharedArray(array), content(array.size), shadows((array.size + Unit - 1) / Unit) {}
    std::vector<char> content;
    std::vector<Shadow> shadows;
  };

  // The array, counted from 0, that an address belongs to, and the place within it: see `symbols` in ptx.py.
  static int array_of(uint32_t address) { return int((address + (1u << 19)) >> 20) - 1; }

  auto place_of(uint32_t address) {
    return [this, address] {
      const int k = std::min(std::max(array_of(address), 0), int(arrays_.size()) - 1);
      if (k < 0) return std::string("shared memory, which the kernel has none of,");
      const long long offset = (long long)(address) - (long long)(((k + 1) << 20) + int(arrays_[size_t(k)].align));
      return std::string(arrays_[size_t(k)].name) + "[byte " + std::to_string(offset) + "]";
    };
  }

  template <class Check>
  char* access(uint32_t address, unsigned size, Check check) {
    const int k = array_of(address);
    const bool known = k >= 0 && k < int(arrays_.size());
    const uint32_t offset = known ? address - (uint32_t(k + 1) << 20) - arrays_[size_t(k)].align : 0;
    if (!known || offset >= arrays_[size_t(k)].size || size > arrays_[size_t(k)].size - offset) {
      fail(place_of(address)() + " is out of bounds" +
           (known ? " of its " + std::to_string(arrays_[size_t(k)].size) + " bytes" : std::string()));
    }
    for (uint32_t at = offset; at < offset + size; at += Unit)
      check(arrays_[size_t(k)].shadows[at / Unit], place_of(address + at - offset));
    return &arrays_[size_t(k)].content[offset];
  }

  std::vector<Array> arrays_;
};

// Generic addresses: those of shared memory are in a window that holds no pointers.
constexpr uint64_t kSharedWindow = 1ull << 62;

template <class Shared>
struct Generic {
  Shared& shared;

  static bool is_shared(uint64_t address) { return address - kSharedWindow < (1ull << 32); }

  void aligned(uint64_t address, unsigned size) {
    is_shared(address) ? shared.aligned(address - kSharedWindow, size) : global.aligned(address, size);
  }

  template <class T>
  T load(uint64_t address) {
    return is_shared(address) ? shared.template load<T>(address - kSharedWindow) : global.load<T>(address);
  }

  template <class T>
  void store(uint64_t address, T value) {
    is_shared(address) ? shared.template store<T>(address - kSharedWindow, value) : global.store<T>(address, value);
  }

  template <class T, class F>
  T atomic(uint64_t address, F next) {
    return is_shared(address) ? shared.template atomic<T>(address - kSharedWindow, next)
                              : global.atomic<T>(address, next);
  }
};

// ---- what threads do together ---------------------------------------------------------------------------------------

inline void check_barrier(uint32_t number) {
  if (number != 0) fail("a barrier other than the first, which is not emulated");
}

struct Shuffled {
  uint32_t value;
  bool within;  // its source was in the segment of lanes
};

enum class Shuffle { up, down, bfly, idx };

// `c`: the last lane of a segment (or the first, for `up`) in bits 0 to 4, a mask that cuts segments in bits 8 to 12.
inline Shuffled shuffle(Shuffle kind, uint32_t value, uint32_t b, uint32_t c, uint32_t mask) {
  const int own = lane(), segment = int(c >> 8 & 31), step = int(b & 31);
  const int first = own & segment, last = first | (int(c & 31) & ~segment);
  int from = own;
  switch (kind) {
    case Shuffle::up: from = own - step; break;
    case Shuffle::down: from = own + step; break;
    case Shuffle::bfly: from = own ^ step; break;
    case Shuffle::idx: from = first | (step & ~segment); break;
  }
  const bool within = kind == Shuffle::up ? from >= last : from <= last;
  const char* const names[] = {"shfl.sync.up", "shfl.sync.down", "shfl.sync.bfly", "shfl.sync.idx"};
  return {fetch(mask, value, within ? from : own, names[int(kind)]), within};
}

inline bool vote_uniform(uint32_t mask, bool vote) {
  const uint32_t ballot = __ballot_sync(mask, vote);
  return ballot == 0 || ballot == me().mask;
}

// The lanes with the same value.
inline uint32_t match_any(uint32_t value, uint32_t mask) {
  const uint32_t* all = exchange(value, "match.any.sync", mask);
  uint32_t result = 0;
  for (int other = 0; other < kLanes; ++other)
    if ((me().mask >> other & 1) && all[other] == value) result |= 1u << other;
  return result;
}

inline uint32_t match_all(uint32_t value, uint32_t mask) {
  return match_any(value, mask) == me().mask ? me().mask : 0;
}

template <class T, class F>
T reduced(T value, uint32_t mask, F operation) {
  const uint32_t* all = exchange(as<uint32_t>(value), "redux.sync", mask);
  bool first = true;
  T result{};
  for (int other = 0; other < kLanes; ++other) {
    if (!(me().mask >> other & 1)) continue;
    const T each = as<T>(all[other]);
    result = first ? each : T(operation(result, each)), first = false;
  }
  return result;
}

}  // namespace emulate
