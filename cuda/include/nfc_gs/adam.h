// One step of Adam (Kingma and Ba 2015, algorithm 1), and its moments as bfloat16.
#pragma once

#include "numeric.h"

namespace nfc {

struct AdamConstants {
  float beta1, beta2, gain1, gain2;         // gain = 1 - beta, rounded once: 1 - 0.999f is off by 5e-5
  float epsilon, correction1, correction2;  // corrections: 1 / (1 - beta^t)
  int step;                                 // t, by which bfloat16 is rounded
};

inline namespace NFC_ISA {

template <class F>
struct AdamState {
  F value, first, second;
};

template <class F>
NFC_HD AdamState<F> adam_update(const AdamConstants& k, const AdamState<F>& old, F gradient, F rate) {
  const F m = k.beta1 * old.first + k.gain1 * gradient;
  const F v = k.beta2 * old.second + k.gain2 * gradient * gradient;
  return {old.value - rate * (m * k.correction1) / (square_root(v * k.correction2) + k.epsilon), m, v};
}

// 32 random bits for one of the values of a parameter, a function of its index and the step alone: Wellons' lowbias32.
template <class U>
NFC_HD U random_bits(unsigned step, U index) {
  U x = index ^ step * 0x9e3779b9u;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// The moments as a type of number holds them. bfloat16: rounded up or down at random, such that the expectation is the
// moment. A step changes the second one by 0.1 % of itself, which rounding to the nearest multiple of 0.4 % would drop.
// NaN, as arithmetic makes it, stays NaN.
template <class F, class U>
NFC_HD AdamState<F> as_stored(const AdamConstants&, const AdamState<F>& state, U, const float*) {
  return state;
}
template <class F, class U>
NFC_HD AdamState<F> as_stored(const AdamConstants& k, const AdamState<F>& state, U index, const BFloat16*) {
  const U random = random_bits(unsigned(k.step), index);
  return {state.value, from_pattern((bit_pattern(state.first) + (random & 0xffffu)) & 0xffff0000u),
          from_pattern((bit_pattern(state.second) + (random >> 16)) & 0xffff0000u)};
}

// A step of the value `at` of a parameter.
template <class Moment>
NFC_HD void adam_move(const AdamConstants& k, float* value, Moment* first, Moment* second, size_t at, float gradient,
                      float rate) {
  const AdamState<float> old = {value[at], widened(first[at]), widened(second[at])};
  const AdamState<float> now = as_stored(k, adam_update(k, old, gradient, rate), unsigned(at), first);
  value[at] = now.value, narrow(now.first, first + at), narrow(now.second, second + at);
}

// The same with moments that are BFloat16 or float. The arithmetic is there once: twice takes more registers.
NFC_HD void adam_move(const AdamConstants& k, bool bfloat16, float* value, void* first, void* second, size_t at,
                      float gradient, float rate) {
  float *m = static_cast<float*>(first) + at, *v = static_cast<float*>(second) + at;
  BFloat16 *m16 = static_cast<BFloat16*>(first) + at, *v16 = static_cast<BFloat16*>(second) + at;
  const AdamState<float> old = {value[at], bfloat16 ? widened(*m16) : *m, bfloat16 ? widened(*v16) : *v};
  AdamState<float> now = adam_update(k, old, gradient, rate);
  value[at] = now.value;
  if (bfloat16) {
    now = as_stored(k, now, unsigned(at), m16);
    narrow(now.first, m16), narrow(now.second, v16);
  } else {
    *m = now.first, *v = now.second;
  }
}

}  // namespace NFC_ISA
}  // namespace nfc
