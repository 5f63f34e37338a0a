// A vector of floats as wide as the instruction set of this translation unit allows, with the operations of numeric.h.
// To be included before the mathematics (include/nfc_gs), whose templates must find the operations on vectors.
// GCC and Clang have vectors as types; elsewhere (MSVC) an array whose loops the compiler vectorises does the same.
#pragma once

#include "../../include/nfc_gs/numeric.h"

#if defined(__AVX512F__)
#define NFC_LANES 16
#elif defined(__AVX2__)
#define NFC_LANES 8
#else
#define NFC_LANES 4
#endif

#if defined(__GNUC__) && (defined(__SSE2__) || defined(__AVX2__))
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace nfc {
inline namespace NFC_ISA {

constexpr int kLanes = NFC_LANES;

#if defined(__GNUC__)

typedef float Vf __attribute__((vector_size(4 * NFC_LANES)));
typedef int32_t Vi __attribute__((vector_size(4 * NFC_LANES)));
typedef uint32_t Vu __attribute__((vector_size(4 * NFC_LANES)));
typedef Vi Mask;

NFC_HD Vf select(Mask mask, Vf yes, Vf no) { return mask ? yes : no; }
NFC_HD Vi bits(Vf a) { return (Vi)a; }
NFC_HD Vf from_bits(Vi a) { return (Vf)a; }
NFC_HD Vf to_float(Vi a) { return __builtin_convertvector(a, Vf); }
NFC_HD Mask both(Mask a, Mask b) { return a & b; }
NFC_HD int32_t lane(Mask a, int i) { return a[i]; }
// Of the bits of floats, which wrap around: signed numbers must not overflow.
NFC_HD Vi add_bits(Vi a, Vi b) { return (Vi)((Vu)a + (Vu)b); }
NFC_HD Vi subtract_bits(Vi a, Vi b) { return (Vi)((Vu)a - (Vu)b); }
NFC_HD Vi shift_left(Vi a, int s) { return (Vi)((Vu)a << s); }
NFC_HD Vi all_lanes(int32_t a) { return Vi{} + a; }
NFC_HD Vu bit_pattern(Vf a) { return (Vu)a; }
NFC_HD Vf from_pattern(Vu a) { return (Vf)a; }

typedef uint16_t Vh __attribute__((vector_size(2 * NFC_LANES)));
NFC_HD Vf load(const BFloat16* p) {
  Vh half;
  memcpy(&half, p, sizeof half);
  return (Vf)(__builtin_convertvector(half, Vu) << 16);
}
NFC_HD void store(BFloat16* p, Vf a) {
  const Vh half = __builtin_convertvector((Vu)a >> 16, Vh);
  memcpy(p, &half, sizeof half);
}

#else

struct Vi {
  int32_t v[kLanes];
};
typedef Vi Mask;
struct Vu {
  uint32_t v[kLanes];
};
struct Vf {
  float v[kLanes];
  float operator[](int i) const { return v[i]; }
  float& operator[](int i) { return v[i]; }
};
#define NFC_EACH for (int i = 0; i < kLanes; ++i)
#define NFC_BINARY(op)                   \
  NFC_HD Vf operator op(Vf a, Vf b) {    \
    NFC_EACH a.v[i] = a.v[i] op b.v[i];  \
    return a;                            \
  }                                      \
  NFC_HD Vf operator op(Vf a, float b) { \
    NFC_EACH a.v[i] = a.v[i] op b;       \
    return a;                            \
  }                                      \
  NFC_HD Vf operator op(float a, Vf b) { \
    NFC_EACH b.v[i] = a op b.v[i];       \
    return b;                            \
  }
NFC_BINARY(+)
NFC_BINARY(-)
NFC_BINARY(*)
NFC_BINARY(/)
#undef NFC_BINARY
NFC_HD Vf operator-(Vf a) {
  NFC_EACH a.v[i] = -a.v[i];
  return a;
}
#define NFC_COMPARE(op)                          \
  NFC_HD Mask operator op(Vf a, Vf b) {          \
    Mask m;                                      \
    NFC_EACH m.v[i] = a.v[i] op b.v[i] ? -1 : 0; \
    return m;                                    \
  }
NFC_COMPARE(<)
NFC_COMPARE(>)
NFC_COMPARE(<=)
NFC_COMPARE(>=)
NFC_COMPARE(==)
#undef NFC_COMPARE
NFC_HD Vi add_bits(Vi a, Vi b) {
  NFC_EACH a.v[i] = int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]));
  return a;
}
NFC_HD Vi subtract_bits(Vi a, Vi b) {
  NFC_EACH a.v[i] = int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i]));
  return a;
}
NFC_HD Vi shift_left(Vi a, int s) {
  NFC_EACH a.v[i] = int32_t(uint32_t(a.v[i]) << s);
  return a;
}
NFC_HD Vi all_lanes(int32_t a) {
  Vi r;
  NFC_EACH r.v[i] = a;
  return r;
}
NFC_HD Vi operator>>(Vi a, int s) {
  NFC_EACH a.v[i] >>= s;
  return a;
}
NFC_HD Vf to_float(Vi a) {
  Vf r;
  NFC_EACH r.v[i] = float(a.v[i]);
  return r;
}
NFC_HD Vf select(Mask mask, Vf yes, Vf no) {
  NFC_EACH no.v[i] = mask.v[i] ? yes.v[i] : no.v[i];
  return no;
}
NFC_HD Vi bits(Vf a) {
  Vi r;
  memcpy(&r, &a, sizeof r);
  return r;
}
NFC_HD Vf from_bits(Vi a) {
  Vf r;
  memcpy(&r, &a, sizeof r);
  return r;
}
NFC_HD int32_t lane(Mask a, int i) { return a.v[i]; }
NFC_HD Mask both(Mask a, Mask b) {
  NFC_EACH a.v[i] &= b.v[i];
  return a;
}
#define NFC_UNSIGNED(op)                   \
  NFC_HD Vu operator op(Vu a, Vu b) {      \
    NFC_EACH a.v[i] = a.v[i] op b.v[i];    \
    return a;                              \
  }                                        \
  NFC_HD Vu operator op(Vu a, uint32_t b) { \
    NFC_EACH a.v[i] = a.v[i] op b;         \
    return a;                              \
  }
NFC_UNSIGNED(+)
NFC_UNSIGNED(*)
NFC_UNSIGNED(^)
NFC_UNSIGNED(&)
NFC_UNSIGNED(>>)
#undef NFC_UNSIGNED
NFC_HD Vu bit_pattern(Vf a) {
  Vu r;
  memcpy(&r, &a, sizeof r);
  return r;
}
NFC_HD Vf from_pattern(Vu a) {
  Vf r;
  memcpy(&r, &a, sizeof r);
  return r;
}
NFC_HD Vf load(const BFloat16* p) {
  Vf r;
  NFC_EACH r.v[i] = widened(p[i]);
  return r;
}
NFC_HD void store(BFloat16* p, Vf a) { NFC_EACH narrow(a.v[i], p + i); }
#undef NFC_EACH

#endif

NFC_HD Vf load(const float* p) {
  Vf r;
  memcpy(&r, p, sizeof r);
  return r;
}
NFC_HD void store(float* p, Vf a) { memcpy(p, &a, sizeof a); }
NFC_HD Vu load(const uint32_t* p) {
  Vu r;
  memcpy(&r, p, sizeof r);
  return r;
}
NFC_HD Vf broadcast(float a) { return a - Vf{}; }  // an addition would be more than a copy: it makes -0 to 0

#if defined(__AVX512F__) && defined(__GNUC__)
NFC_HD Vf minimum(Vf a, Vf b) { return (Vf)_mm512_min_ps((__m512)a, (__m512)b); }
NFC_HD Vf maximum(Vf a, Vf b) { return (Vf)_mm512_max_ps((__m512)a, (__m512)b); }
NFC_HD Vf square_root(Vf a) { return (Vf)_mm512_sqrt_ps((__m512)a); }
NFC_HD Vf reciprocal(Vf a) {  // to about 1 ulp: an estimate and one Newton step
  const Vf r = (Vf)_mm512_rcp14_ps((__m512)a);
  return r * (2.0f - a * r);
}
#elif defined(__AVX2__) && defined(__GNUC__)
NFC_HD Vf minimum(Vf a, Vf b) { return (Vf)_mm256_min_ps((__m256)a, (__m256)b); }
NFC_HD Vf maximum(Vf a, Vf b) { return (Vf)_mm256_max_ps((__m256)a, (__m256)b); }
NFC_HD Vf square_root(Vf a) { return (Vf)_mm256_sqrt_ps((__m256)a); }
NFC_HD Vf reciprocal(Vf a) { return 1.0f / a; }
#elif defined(__SSE2__) && defined(__GNUC__)
NFC_HD Vf minimum(Vf a, Vf b) { return (Vf)_mm_min_ps((__m128)a, (__m128)b); }
NFC_HD Vf maximum(Vf a, Vf b) { return (Vf)_mm_max_ps((__m128)a, (__m128)b); }
NFC_HD Vf square_root(Vf a) { return (Vf)_mm_sqrt_ps((__m128)a); }
NFC_HD Vf reciprocal(Vf a) { return 1.0f / a; }
#elif defined(__ARM_NEON) && defined(__aarch64__) && defined(__GNUC__)
NFC_HD Vf minimum(Vf a, Vf b) { return (Vf)vminq_f32((float32x4_t)a, (float32x4_t)b); }
NFC_HD Vf maximum(Vf a, Vf b) { return (Vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
NFC_HD Vf square_root(Vf a) { return (Vf)vsqrtq_f32((float32x4_t)a); }
NFC_HD Vf reciprocal(Vf a) { return 1.0f / a; }
#else
NFC_HD Vf minimum(Vf a, Vf b) { return select(a < b, a, b); }
NFC_HD Vf maximum(Vf a, Vf b) { return select(a > b, a, b); }
NFC_HD Vf square_root(Vf a) {
  for (int i = 0; i < kLanes; ++i) a[i] = sqrtf(a[i]);
  return a;
}
NFC_HD Vf reciprocal(Vf a) { return 1.0f / a; }
#endif

// a b + c, rounded once where the machine can.
#if defined(__AVX512F__) && defined(__GNUC__)
NFC_HD Vf multiply_add(Vf a, Vf b, Vf c) { return (Vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__FMA__) && defined(__GNUC__)
NFC_HD Vf multiply_add(Vf a, Vf b, Vf c) { return (Vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
NFC_HD Vf multiply_add(Vf a, Vf b, Vf c) { return a * b + c; }
#endif

// log2 of positive normal numbers, error below 1e-7 beside the rounding of the sum: a = 2^n m with m in [sqrt(1/2),
// sqrt(2)), and a minimax polynomial of m - 1 for log2(m). Anything else, NaN included, gives nonsense.
NFC_HD Vf log_2(Vf a) {
  const Vi n = subtract_bits(bits(a), all_lanes(0x3f3504f3)) >> 23;  // sqrt(1/2)
  const Vf f = from_bits(subtract_bits(bits(a), shift_left(n, 23))) - 1.0f;
  Vf p = broadcast(1.292611590e-1f);
  p = p * f - 2.089323878e-1f;
  p = p * f + 2.152127539e-1f;
  p = p * f - 2.386759134e-1f;
  p = p * f + 2.879390680e-1f;
  p = p * f - 3.607162529e-1f;
  p = p * f + 4.809102803e-1f;
  p = p * f - 7.213471994e-1f;
  p = p * f + 1.442695005f;
  return p * f + to_float(n);
}

// 2^t for -126 <= t <= 126, relative error below 3e-7: t = n + f with |f| <= 1/2, a minimax polynomial for 2^f, and n
// added to the exponent. Beyond that, nonsense. Of N vectors at a time, step by step: each waits for its last step.
template <int N>
NFC_HD void exp_2(Vf* t) {
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float coefficients[] = {9.675541244e-3f, 5.550713309e-2f, 2.402211973e-1f, 6.931469670e-1f, 1.000000072f};
  Vf shifted[N], f[N], p[N];
  for (int i = 0; i < N; ++i) shifted[i] = t[i] + round;
  for (int i = 0; i < N; ++i) f[i] = t[i] - (shifted[i] - round);
  for (int i = 0; i < N; ++i) p[i] = broadcast(1.327646061e-3f);
  for (float c : coefficients)
    for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + c;
  for (int i = 0; i < N; ++i) t[i] = from_bits(add_bits(bits(p[i]), shift_left(bits(shifted[i]), 23)));
}

NFC_HD Vf exp_2(Vf t) {
  exp_2<1>(&t);
  return t;
}

// exp(a), relative error below 4e-7, for a held between -86 and 87; NaN, as arithmetic makes it, stays NaN.
NFC_HD Vf exponential(Vf a) {
  a = maximum(broadcast(-86.0f), minimum(broadcast(87.0f), a));
  const float round = 12582912.0f;  // as in exp_2
  const Vf shifted = a * 1.442695041f + round, n = shifted - round;
  const Vf rest = (a - n * 0.693359375f) + n * 2.121944400e-4f;  // ln 2 in two parts, of which the first is short
  return from_bits(add_bits(bits(exp_2(rest * 1.442695041f)), shift_left(bits(shifted), 23)));
}

// 1 / (1 + exp(-a)). NaN, as arithmetic makes it, stays NaN: minimum and maximum return their second argument then.
NFC_HD Vf sigmoid(Vf a) {
  const Vf t = maximum(broadcast(-125.0f), minimum(broadcast(125.0f), -1.442695041f * a));
  return reciprocal(1.0f + exp_2(t));
}

// Interleaves the lanes of two vectors: a0 b0 a1 b1 ..., first half or second half of it.
#if defined(__GNUC__)
template <int... I>
struct Lanes {};
template <int N, int... I>
struct CountLanes : CountLanes<N - 1, N - 1, I...> {};
template <int... I>
struct CountLanes<0, I...> {
  using type = Lanes<I...>;
};
template <int Offset, int... I>
NFC_HD Vf zip(Vf a, Vf b, Lanes<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (Offset + I / 2 + (I % 2) * kLanes)...);
#else
  return __builtin_shuffle(a, b, Vi{(Offset + I / 2 + (I % 2) * kLanes)...});
#endif
}
NFC_HD Vf zip_low(Vf a, Vf b) { return zip<0>(a, b, CountLanes<kLanes>::type()); }
NFC_HD Vf zip_high(Vf a, Vf b) { return zip<kLanes / 2>(a, b, CountLanes<kLanes>::type()); }
#else
NFC_HD Vf zip_low(Vf a, Vf b) {
  Vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = i % 2 ? b[i / 2] : a[i / 2];
  return r;
}
NFC_HD Vf zip_high(Vf a, Vf b) {
  Vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = i % 2 ? b[kLanes / 2 + i / 2] : a[kLanes / 2 + i / 2];
  return r;
}
#endif

// Transposes a block of kLanes x kLanes floats in place.
#if defined(__AVX512F__) && defined(__GNUC__)
// Blocks of 4 x 4 floats within 128 bits of four rows, then blocks of 128 bits: shuffles that are cheaper than
// interleaving whole vectors.
NFC_HD void transpose(Vf* rows) {
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = (__m512)rows[i], b = (__m512)rows[i + 1], c = (__m512)rows[i + 2], d = (__m512)rows[i + 3];
    const __m512d ab0 = (__m512d)_mm512_unpacklo_ps(a, b), ab1 = (__m512d)_mm512_unpackhi_ps(a, b);
    const __m512d cd0 = (__m512d)_mm512_unpacklo_ps(c, d), cd1 = (__m512d)_mm512_unpackhi_ps(c, d);
    rows[i] = (Vf)_mm512_unpacklo_pd(ab0, cd0), rows[i + 1] = (Vf)_mm512_unpackhi_pd(ab0, cd0);
    rows[i + 2] = (Vf)_mm512_unpacklo_pd(ab1, cd1), rows[i + 3] = (Vf)_mm512_unpackhi_pd(ab1, cd1);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = (__m512)rows[i], b = (__m512)rows[i + 4], c = (__m512)rows[i + 8], d = (__m512)rows[i + 12];
    const __m512 ab0 = _mm512_shuffle_f32x4(a, b, 0x44), ab1 = _mm512_shuffle_f32x4(a, b, 0xee);
    const __m512 cd0 = _mm512_shuffle_f32x4(c, d, 0x44), cd1 = _mm512_shuffle_f32x4(c, d, 0xee);
    rows[i] = (Vf)_mm512_shuffle_f32x4(ab0, cd0, 0x88), rows[i + 4] = (Vf)_mm512_shuffle_f32x4(ab0, cd0, 0xdd);
    rows[i + 8] = (Vf)_mm512_shuffle_f32x4(ab1, cd1, 0x88), rows[i + 12] = (Vf)_mm512_shuffle_f32x4(ab1, cd1, 0xdd);
  }
}
#elif defined(__AVX2__) && defined(__GNUC__)
NFC_HD void transpose(Vf* rows) {
  for (int i = 0; i < 8; i += 4) {
    const __m256 a = (__m256)rows[i], b = (__m256)rows[i + 1], c = (__m256)rows[i + 2], d = (__m256)rows[i + 3];
    const __m256d ab0 = (__m256d)_mm256_unpacklo_ps(a, b), ab1 = (__m256d)_mm256_unpackhi_ps(a, b);
    const __m256d cd0 = (__m256d)_mm256_unpacklo_ps(c, d), cd1 = (__m256d)_mm256_unpackhi_ps(c, d);
    rows[i] = (Vf)_mm256_unpacklo_pd(ab0, cd0), rows[i + 1] = (Vf)_mm256_unpackhi_pd(ab0, cd0);
    rows[i + 2] = (Vf)_mm256_unpacklo_pd(ab1, cd1), rows[i + 3] = (Vf)_mm256_unpackhi_pd(ab1, cd1);
  }
  for (int i = 0; i < 4; ++i) {
    const __m256 a = (__m256)rows[i], b = (__m256)rows[i + 4];
    rows[i] = (Vf)_mm256_permute2f128_ps(a, b, 0x20), rows[i + 4] = (Vf)_mm256_permute2f128_ps(a, b, 0x31);
  }
}
#else
// Each round interleaves the two halves of the rows.
NFC_HD void transpose(Vf* rows) {
  for (int round = 1; round < kLanes; round *= 2) {
    Vf next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = zip_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = zip_high(rows[i], rows[i + kLanes / 2]);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}
#endif

// Whether a mask has any lane.
#if defined(__AVX512F__) && defined(__GNUC__)
NFC_HD bool any(Mask mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }
#elif defined(__AVX2__) && defined(__GNUC__)
NFC_HD bool any(Mask mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#else
NFC_HD bool any(Mask mask) {
  int32_t found = 0;
  for (int i = 0; i < kLanes; ++i) found |= lane(mask, i);
  return found != 0;
}
#endif

// A mask of the first `count` lanes.
NFC_HD Mask first_lanes(int count) {
  Vf index = {};
  for (int i = 0; i < kLanes; ++i) index[i] = float(i);
  return index < broadcast(float(count));
}

// Writes first + i, which is below 256, for each lane i of a mask, in their order, and returns how many there are. May
// write kListRoom numbers.
constexpr int kListRoom = 16;
#if defined(__AVX512F__) && defined(__GNUC__)
NFC_HD int list_lanes(Mask mask, int first, uint8_t* list) {
  const __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 lanes = _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
  const __m512i listed = _mm512_maskz_compress_epi32(lanes, _mm512_add_epi32(index, _mm512_set1_epi32(first)));
  _mm_storeu_si128((__m128i*)list, _mm512_cvtepi32_epi8(listed));
  return __builtin_popcount(lanes);
}
#else
// The lanes of each mask, and how many they are.
struct LaneLists {
  uint8_t lanes[1 << kLanes][kLanes], counts[1 << kLanes];

  constexpr LaneLists() : lanes(), counts() {
    for (int mask = 0; mask < 1 << kLanes; ++mask)
      for (int i = 0; i < kLanes; ++i)
        if (mask >> i & 1) lanes[mask][counts[mask]++] = uint8_t(i);
  }
};
constexpr LaneLists kLaneLists;

#if defined(__AVX2__) && defined(__GNUC__)
NFC_HD int mask_bits(Mask mask) { return _mm256_movemask_ps((__m256)mask); }
#elif defined(__SSE2__) && defined(__GNUC__)
NFC_HD int mask_bits(Mask mask) { return _mm_movemask_ps((__m128)mask); }
#else
NFC_HD int mask_bits(Mask mask) {
  int set = 0;
  for (int i = 0; i < kLanes; ++i) set |= (lane(mask, i) & 1) << i;
  return set;
}
#endif

NFC_HD int list_lanes(Mask mask, int first, uint8_t* list) {
  const int set = mask_bits(mask);
  for (int i = 0; i < kLanes; ++i) list[i] = uint8_t(first + kLaneLists.lanes[set][i]);
  return kLaneLists.counts[set];
}
#endif

// The sum of the lanes, always in the same order.
#if defined(__AVX512F__) && defined(__GNUC__)
NFC_HD float sum_lanes(Vf a) { return _mm512_reduce_add_ps((__m512)a); }
#else
NFC_HD float sum_lanes(Vf a) {
  float x[kLanes];
  store(x, a);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x[i] += x[i + width];
  return x[0];
}
#endif

// The sums of the lanes of `Count` vectors, each in the order of sum_lanes. Writes whole vectors: `sums` has room for
// Count rounded up to a multiple of kLanes.
template <int Count>
NFC_HD void sum_lanes(const Vf* values, float* sums) {
  for (int first = 0; first < Count; first += kLanes) {
    Vf v[kLanes];
    for (int i = 0; i < kLanes; ++i) v[i] = first + i < Count ? values[first + i] : Vf{};
    for (int left = kLanes / 2; left > 0; left /= 2)
      for (int i = 0; i < left; ++i) v[i] = zip_low(v[i], v[i + left]) + zip_high(v[i], v[i + left]);
    store(sums + first, v[0]);
  }
}

}  // namespace NFC_ISA
}  // namespace nfc
