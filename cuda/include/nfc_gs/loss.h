// The terms of the photometric loss at one value, and their derivatives.
#pragma once

#include "constants.h"
#include "numeric.h"

namespace nfc {
inline namespace NFC_ISA {

// SSIM, and the derivatives of `weight` (1 - SSIM) with respect to the means under the window that it depends on.
template <class F>
struct Ssim {
  F value, v_mean, v_squares, v_product;  // of x, of x^2 + y^2, of x y
};

// SSIM of two images x and y (Wang et al. 2004, eq. 13) from the means under the window of x, y, x^2 + y^2 and x y.
template <class F>
NFC_HD Ssim<F> ssim_of(F mx, F my, F squares, F product, F weight) {
  const F mxx_myy = mx * mx + my * my, mxy = mx * my;
  const F a1 = 2.0f * mxy + NFC_SSIM_C1, a2 = 2.0f * (product - mxy) + NFC_SSIM_C2;
  const F b1 = mxx_myy + NFC_SSIM_C1, b2 = squares - mxx_myy + NFC_SSIM_C2;
  const F inv_b1 = 1.0f / b1, inv_b2 = 1.0f / b2, inv = inv_b1 * inv_b2;
  const F ssim = a1 * a2 * inv, k = -weight;
  return {ssim, k * 2.0f * (my * (a2 - a1) * inv - mx * ssim * (inv_b1 - inv_b2)), -k * ssim * inv_b2,
          k * 2.0f * a1 * inv};
}

// y log2(c) + (1 - y) log2(1 - c), with c = x clipped to [low, high], and the derivative with respect to x of
// -y ln(c) - (1 - y) ln(1 - c), which is zero where x is clipped (Yang et al. 2024, eq. 4 and 5). NaN gives NaN.
template <class F>
NFC_HD F log_likelihood(F x, F y, F low, F high, F* derivative) {
  const F c = maximum(low, minimum(high, x)), rest = 1.0f - c;
  *derivative = select(c == x, (c - y) * reciprocal(c * rest), F{});
  const F log_rest = log_2(rest);
  return log_rest + y * (log_2(c) - log_rest) + (c - c);  // log_2 of a vector takes NaN for a number, c - c does not
}

constexpr float kLn2 = 0.69314718f;

}  // namespace NFC_ISA
}  // namespace nfc
