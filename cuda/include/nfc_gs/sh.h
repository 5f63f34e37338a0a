// Real spherical harmonics up to degree 3, in the sign convention of 3DGS (Kerbl et al. 2023; constants after Sloan,
// "Efficient Spherical Harmonic Evaluation", 2013), and their derivative with respect to the direction.
#pragma once

#include "numeric.h"

namespace nfc {
inline namespace NFC_ISA {

// The gradient of an SH color before its clamp at zero, from that after it: where the color is zero, only a gradient that
// would raise it passes (`one_sided_clamp` in nfc_gs/core/sh.py).
NFC_HD float one_sided_clamp_vjp(float color, float v_color) {
  return color > 0.0f || v_color < 0.0f ? v_color : 0.0f;
}

// Y[k] for k < (degree + 1)^2 at the unit direction (x, y, z).
template <class F>
NFC_HD void sh_basis(int degree, F x, F y, F z, F* Y) {
  Y[0] = F{} + 0.28209479177387814f;
  if (degree < 1) return;
  Y[1] = -0.4886025119029199f * y, Y[2] = 0.4886025119029199f * z, Y[3] = -0.4886025119029199f * x;
  if (degree < 2) return;
  const F xx = x * x, yy = y * y, zz = z * z;
  Y[4] = 1.0925484305920792f * x * y, Y[5] = -1.0925484305920792f * y * z;
  Y[6] = 0.31539156525252005f * (2.0f * zz - xx - yy);
  Y[7] = -1.0925484305920792f * x * z, Y[8] = 0.5462742152960396f * (xx - yy);
  if (degree < 3) return;
  Y[9] = -0.5900435899266435f * y * (3.0f * xx - yy), Y[10] = 2.890611442640554f * x * y * z;
  Y[11] = -0.4570457994644658f * y * (4.0f * zz - xx - yy);
  Y[12] = 0.3731763325901154f * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
  Y[13] = -0.4570457994644658f * x * (4.0f * zz - xx - yy);
  Y[14] = 1.445305721320277f * z * (xx - yy), Y[15] = -0.5900435899266435f * x * (xx - 3.0f * yy);
}

// d[k] = gradient of Y[k] as a polynomial in (x, y, z), for k < (degree + 1)^2.
template <class F>
NFC_HD void sh_basis_gradient(int degree, F x, F y, F z, Vec3<F>* d) {
  const F zero = F{};
  d[0] = {zero, zero, zero};
  if (degree < 1) return;
  const float c1 = 0.4886025119029199f;
  d[1] = {zero, zero - c1, zero}, d[2] = {zero, zero, zero + c1}, d[3] = {zero - c1, zero, zero};
  if (degree < 2) return;
  const float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f;
  d[4] = {c2 * y, c2 * x, zero}, d[5] = {zero, -c2 * z, -c2 * y};
  d[6] = {-2.0f * c20 * x, -2.0f * c20 * y, 4.0f * c20 * z};
  d[7] = {-c2 * z, zero, -c2 * x}, d[8] = {c2 * x, -c2 * y, zero};
  if (degree < 3) return;
  const F xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
  const float c33 = 0.5900435899266435f, c32 = 2.890611442640554f, c31 = 0.4570457994644658f;
  const float c30 = 0.3731763325901154f, c3m = 1.445305721320277f;
  d[9] = {-6.0f * c33 * xy, -3.0f * c33 * (xx - yy), zero};
  d[10] = {c32 * yz, c32 * xz, c32 * xy};
  d[11] = {2.0f * c31 * xy, -c31 * (4.0f * zz - xx - 3.0f * yy), -8.0f * c31 * yz};
  d[12] = {-6.0f * c30 * xz, -6.0f * c30 * yz, c30 * (6.0f * zz - 3.0f * xx - 3.0f * yy)};
  d[13] = {-c31 * (4.0f * zz - 3.0f * xx - yy), 2.0f * c31 * xy, -8.0f * c31 * xz};
  d[14] = {2.0f * c3m * xz, -2.0f * c3m * yz, c3m * (xx - yy)};
  d[15] = {-3.0f * c33 * (xx - yy), 6.0f * c33 * xy, zero};
}

}  // namespace NFC_ISA
}  // namespace nfc
