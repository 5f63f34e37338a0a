// One step of Adam (Kingma and Ba 2015, algorithm 1).
#pragma once

#include "numeric.h"

namespace nfc {

struct AdamConstants {
  float beta1, beta2, gain1, gain2;         // gain = 1 - beta, rounded once: 1 - 0.999f is off by 5e-5
  float epsilon, correction1, correction2;  // corrections: 1 / (1 - beta^t)
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

}  // namespace NFC_ISA
}  // namespace nfc
