// Color of a vector of Gaussians at a time as seen from the camera, forward and backward: direct spherical harmonics,
// or 24 bit logits that are decoded before compositing (decoding is linear, so the two commute).
#pragma once

#include "simd.h"
#include "rows.inl"
#include "jobs.h"
#include "../../include/nfc_gs/bits.h"
#include "../../include/nfc_gs/projection.h"
#include "../../include/nfc_gs/sh.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

// Where the gradients of the color's parameters go: rows of arrays, which are the job's or those of a vector alone.
struct ColorGradients {
  float *sh_coeffs, *bit_logits, *bit_shifts;
  Rows rows;
};

struct ViewDirection {
  Vec3<Vf> unit;
  Vf inv_length;
};

inline ViewDirection view_direction(const PinholeCamera& cam, const Vec3<Vf>& mean) {
  const Vec3<Vf> d = {mean.x - cam.center[0], mean.y - cam.center[1], mean.z - cam.center[2]};
  ViewDirection v;
  v.inv_length = 1.0f / square_root(dot(d, d));
  v.unit = {d.x * v.inv_length, d.y * v.inv_length, d.z * v.inv_length};
  return v;
}

inline int bases_in_use(const RenderJob& job) { return (job.sh_degree + 1) * (job.sh_degree + 1); }

// Coefficients of the bases [First, bases in use), `Width` functions of the direction side by side:
// value[Width (k - First) + i] holds basis k of function i.
template <int Width, int First>
struct Harmonics {
  Vf value[Width * (kMaxBases - First)];
  int columns;
  size_t stride;

  Harmonics(const RenderJob& job, const float* coefficients, const Rows& rows)
      : columns(Width * (bases_in_use(job) - First)), stride(size_t(Width) * size_t(job.sh_bases - First)) {
    load_columns(coefficients, stride, columns, rows, value);
  }

  // sum[i] += sum_k basis[k] c[k][i]
  void add(const Vf* basis, Vf* sum) const {
    for (int at = 0; at < columns; at += Width)
      for (int i = 0; i < Width; ++i) sum[i] = sum[i] + basis[First + at / Width] * value[at + i];
  }

  // Writes the gradient of the coefficients, given that of the sums, and returns that of the unit direction.
  // Overwrites the coefficients.
  Vec3<Vf> backward(const Vf* basis, const Vec3<Vf>* basis_gradient, const Vf* v_sum, float* v_coefficients,
                    const Rows& rows) {
    Vec3<Vf> v_unit = {Vf{}, Vf{}, Vf{}};
    for (int at = 0; at < columns; at += Width) {
      const int k = First + at / Width;
      Vf along = Vf{};
      for (int i = 0; i < Width; ++i) {
        along = along + v_sum[i] * value[at + i];
        value[at + i] = basis[k] * v_sum[i];
      }
      const Vec3<Vf> d = basis_gradient[k];
      v_unit = {v_unit.x + along * d.x, v_unit.y + along * d.y, v_unit.z + along * d.z};
    }
    store_columns(v_coefficients, stride, columns, rows, value);
    zero_columns(v_coefficients, stride, columns, rows);
    return v_unit;
  }
};

// Probabilities of the 24 bits: sigmoid(logit + shift).
template <int Width>
inline void bit_probabilities(const Vf* logits, const Vf* shifts, Vf* p) {
  for (int i = 0; i < kColorBits; ++i) p[i] = sigmoid(logits[i] + shifts[Width == 3 ? i / kBits : i]);
}

template <int Width>
inline void bit_color(const RenderJob& job, const Rows& rows, const Vf* basis, Vf* color) {
  Vf logits[kColorBits], shifts[Width] = {}, p[kColorBits];
  load_columns(job.bit_logits, kColorBits, kColorBits, rows, logits);
  Harmonics<Width, 1>(job, job.bit_shifts, rows).add(basis, shifts);
  if (job.color_channels == kColorBits) {
    bit_probabilities<Width>(logits, shifts, color);
    return;
  }
  bit_probabilities<Width>(logits, shifts, p);
  for (int c = 0; c < 3; ++c) color[c] = decode_bits(p + c * kBits);
}

// The color channels of kLanes Gaussians. SH: radiance before the clamp at zero, 0.5 + sum_k Y_k sh_k.
inline void view_color(const RenderJob& job, const ViewDirection& view, const Rows& rows, Vf* color) {
  Vf basis[kMaxBases];
  sh_basis(job.sh_degree, view.unit.x, view.unit.y, view.unit.z, basis);
  if (job.sh_coeffs) {
    for (int c = 0; c < 3; ++c) color[c] = broadcast(0.5f);
    Harmonics<3, 0>(job, job.sh_coeffs, rows).add(basis, color);
  } else if (job.shift_columns == 3) {
    bit_color<3>(job, rows, basis, color);
  } else {
    bit_color<kColorBits>(job, rows, basis, color);
  }
}

template <int Width>
inline Vec3<Vf> bit_color_backward(const RenderJob& job, const Rows& rows, const Vf* basis,
                                   const Vec3<Vf>* basis_gradient, const Vf* v_color, const ColorGradients& to) {
  Vf logits[kColorBits], shifts[Width] = {}, v_shifts[Width] = {}, p[kColorBits];
  load_columns(job.bit_logits, kColorBits, kColorBits, rows, logits);
  Harmonics<Width, 1> harmonics(job, job.bit_shifts, rows);
  harmonics.add(basis, shifts);
  bit_probabilities<Width>(logits, shifts, p);
  const bool decoded = job.color_channels != kColorBits;
  for (int i = 0; i < kColorBits; ++i) {
    const Vf v_p = decoded ? place_value(i % kBits) * v_color[i / kBits] : v_color[i];
    const Vf v_logit = v_p * p[i] * (1.0f - p[i]);
    logits[i] = v_logit;
    const int shift = Width == 3 ? i / kBits : i;
    v_shifts[shift] = v_shifts[shift] + v_logit;
  }
  store_columns(to.bit_logits, kColorBits, kColorBits, to.rows, logits);
  return harmonics.backward(basis, basis_gradient, v_shifts, to.bit_shifts, to.rows);
}

// From the gradient of the color (before the clamp of an SH color): writes that of the coefficients and returns that of
// the mean, through the direction.
inline Vec3<Vf> view_color_backward(const RenderJob& job, const ViewDirection& view, const Rows& rows,
                                    const Vf* v_color, const ColorGradients& to) {
  const Vec3<Vf> d = view.unit;
  Vf basis[kMaxBases];
  Vec3<Vf> basis_gradient[kMaxBases], v_unit;
  sh_basis(job.sh_degree, d.x, d.y, d.z, basis);
  sh_basis_gradient(job.sh_degree, d.x, d.y, d.z, basis_gradient);
  if (job.sh_coeffs) {
    v_unit = Harmonics<3, 0>(job, job.sh_coeffs, rows).backward(basis, basis_gradient, v_color, to.sh_coeffs, to.rows);
  } else if (job.shift_columns == 3) {
    v_unit = bit_color_backward<3>(job, rows, basis, basis_gradient, v_color, to);
  } else {
    v_unit = bit_color_backward<kColorBits>(job, rows, basis, basis_gradient, v_color, to);
  }
  const Vf radial = dot(v_unit, d);
  return {(v_unit.x - radial * d.x) * view.inv_length, (v_unit.y - radial * d.y) * view.inv_length,
          (v_unit.z - radial * d.z) * view.inv_length};
}

inline void zero_color_gradient(const RenderJob& job, size_t i) {
  const size_t bases = size_t(job.sh_bases), f = sizeof(float);
  if (job.sh_coeffs) memset(job.v_sh_coeffs + 3 * i * bases, 0, 3 * bases * f);
  if (!job.bit_logits) return;
  const size_t columns = size_t(job.shift_columns) * (bases - 1);
  memset(job.v_bit_logits + kColorBits * i, 0, kColorBits * f);
  if (columns) memset(job.v_bit_shifts + columns * i, 0, columns * f);
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
