// Binary target encoding of colors (Neural Field Classifiers, Yang et al. 2024, section 3.1) and its derivative: a
// value in [0, 1] is the soft decoding sum_j 2^j p_j / 255 of eight bit probabilities p = sigmoid(logit), most
// significant first.
#pragma once

#include "constants.h"
#include "numeric.h"

namespace nfc {
inline namespace NFC_ISA {

constexpr int kBits = NFC_BITS;
constexpr int kColorBits = 3 * NFC_BITS;

// The weight of a bit in the value, the most significant first; the weights add up to 1.
NFC_HD float place_value(int bit) { return float(1 << (kBits - 1 - bit)) / float((1 << kBits) - 1); }

// The value that kBits probabilities decode to.
template <class F>
NFC_HD F decode_bits(const F* p) {
  F value = F{};
  for (int bit = 0; bit < kBits; ++bit) value = value + place_value(bit) * p[bit];
  return value;
}

}  // namespace NFC_ISA
}  // namespace nfc
