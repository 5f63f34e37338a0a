// Color of a Gaussian as seen from the camera, forward and backward: direct spherical harmonics, or 24 bit logits that
// are decoded before compositing (decoding is linear, so the two commute).
//
// One thread has one Gaussian and reads its coefficients, which are contiguous: a warp uses every sector that it
// fetches, if not at once. Loops over bases run to their fixed maximum, so that all arrays live in registers.
#pragma once

#include "../include/nfc_gs/bits.h"
#include "../include/nfc_gs/projection.h"
#include "../include/nfc_gs/sh.h"
#include "gradients.h"
#include "render.h"

namespace nfc {

struct ViewDirection {
  Vec3<float> unit;
  float inv_length;
};

NFC_HD ViewDirection view_direction(const PinholeCamera& cam, const Vec3<float>& mean) {
  const Vec3<float> d = {mean.x - cam.center[0], mean.y - cam.center[1], mean.z - cam.center[2]};
  const float inv_length = 1.0f / square_root(dot(d, d));
  return {{d.x * inv_length, d.y * inv_length, d.z * inv_length}, inv_length};
}

NFC_HD int bases_in_use(const RenderArgs& args) { return (args.sh_degree + 1) * (args.sh_degree + 1); }

// sum_k Y_k c_k over the bases First <= k < bases; coefficients of a basis are `stride` floats apart.
template <int First>
NFC_HD float harmonics(const float* Y, const float* coefficients, int stride, int bases) {
  float sum = 0.0f;
#pragma unroll
  for (int k = First; k < kMaxBases; ++k)
    if (k < bases) sum += Y[k] * coefficients[(k - First) * stride];
  return sum;
}

// Writes the gradient of the coefficients of a shift, zero for those that are stored but not in use, and adds to that of
// Y.
//
// `v_coefficients` is that of the Gaussian's first shift.
template <class Row>
NFC_HD void shift_backward(const RenderArgs& args, const float* Y, const float* coefficients, float v_shift,
                           const Row& v_coefficients, int group, float* v_Y) {
#pragma unroll
  for (int k = 1; k < kMaxBases; ++k) {
    const int at = (k - 1) * args.shift_columns;
    if (k < bases_in_use(args)) v_Y[k] += v_shift * coefficients[at];
    if (k < args.sh_bases) v_coefficients[group + at] = k < bases_in_use(args) ? v_shift * Y[k] : 0.0f;
  }
}

// The gradient of the direction from those of the bases.
NFC_HD Vec3<float> direction_backward(const RenderArgs& args, const Vec3<float>& d, const float* v_Y) {
  Vec3<float> gradient[kMaxBases], v = {0.0f, 0.0f, 0.0f};
  sh_basis_gradient(args.sh_degree, d.x, d.y, d.z, gradient);
#pragma unroll
  for (int k = 0; k < kMaxBases; ++k) {
    if (k >= bases_in_use(args)) continue;
    v.x += v_Y[k] * gradient[k].x, v.y += v_Y[k] * gradient[k].y, v.z += v_Y[k] * gradient[k].z;
  }
  return v;
}

// The way back through the harmonics of one degree of an SH color: passes on the gradients of their coefficients, and
// adds to that of the direction d.
template <int Degree, class To>
NFC_HD void degree_backward(const RenderArgs& args, size_t i, const Vec3<float>& d, const float* sh,
                            const float* v_color, const To& to, Vec3<float>& v_d) {
  constexpr int kBegin = Degree * Degree, kEnd = (Degree + 1) * (Degree + 1);
  if (Degree > args.sh_degree) {  // not in use, if stored at all
    const float nothing[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int k = kBegin; k < kEnd; ++k)
      if (k < args.sh_bases) to.sh_coeffs(i, k, 0.0f, nothing);
    return;
  }
  float Y[kMaxBases];
  Vec3<float> gradient[kMaxBases];
  sh_basis(Degree, d.x, d.y, d.z, Y);
  sh_basis_gradient(Degree, d.x, d.y, d.z, gradient);
#pragma unroll
  for (int k = kBegin; k < kEnd; ++k) {
    const float v_Y = sh[3 * k] * v_color[0] + sh[3 * k + 1] * v_color[1] + sh[3 * k + 2] * v_color[2];
    v_d.x += v_Y * gradient[k].x, v_d.y += v_Y * gradient[k].y, v_d.z += v_Y * gradient[k].z;
    to.sh_coeffs(i, k, Y[k], v_color);
  }
}

// The same for all degrees: one after the other takes fewer registers than all of Y and its gradient.
template <class To>
NFC_HD void sh_color_backward(const RenderArgs& args, size_t i, const Vec3<float>& d, const float* terms,
                              int term_stride, int term_count, const To& to, Vec3<float>& v_d) {
  const float* sh = args.sh_coeffs + 3 * i * size_t(args.sh_bases);
  const float* color = args.colors + i * size_t(args.channels);
  float v_color[3] = {};
  for (int j = 0; j < term_count; ++j)
#pragma unroll
    for (int c = 0; c < 3; ++c) v_color[c] += terms[size_t(j) * term_stride + c];
#pragma unroll
  for (int c = 0; c < 3; ++c) v_color[c] = one_sided_clamp_vjp(color[c], v_color[c]);
  degree_backward<0>(args, i, d, sh, v_color, to, v_d);
  degree_backward<1>(args, i, d, sh, v_color, to, v_d);
  degree_backward<2>(args, i, d, sh, v_color, to, v_d);
  degree_backward<3>(args, i, d, sh, v_color, to, v_d);
}

// The coefficients of the shift of one group of bits: the eight of a channel (shift_columns 3), or a single one (24).
NFC_HD const float* shifts_of(const RenderArgs& args, const float* all, size_t i, int group) {
  return all + i * size_t(args.shift_columns) * size_t(args.sh_bases - 1) + group;
}

NFC_HD void bit_color(const RenderArgs& args, size_t i, const float* Y, float* color) {
  const int bits = kColorBits / args.shift_columns;
  if (args.color_channels != kColorBits) color[0] = color[1] = color[2] = 0.0f;
#pragma unroll 1
  for (int group = 0; group < args.shift_columns; ++group) {
    const float shift =
        harmonics<1>(Y, shifts_of(args, args.bit_shifts, i, group), args.shift_columns, bases_in_use(args));
#pragma unroll 1
    for (int index = group * bits; index < (group + 1) * bits; ++index) {
      const float p = sigmoid(args.bit_logits[i * kColorBits + index] + shift);
      if (args.color_channels == kColorBits) {
        color[index] = p;
      } else {
        color[index / kBits] += place_value(index % kBits) * p;
      }
    }
  }
}

// Writes the color channels of Gaussian i.
NFC_HD void view_color(const RenderArgs& args, const PinholeCamera& cam, const Vec3<float>& mean, size_t i,
                        float* color) {
  const Vec3<float> d = view_direction(cam, mean).unit;
  float Y[kMaxBases];
  sh_basis(args.sh_degree, d.x, d.y, d.z, Y);
  if (args.sh_coeffs) {
    const float* sh = args.sh_coeffs + 3 * i * size_t(args.sh_bases);
    for (int c = 0; c < 3; ++c) {
      const float value = 0.5f + harmonics<0>(Y, sh + c, 3, bases_in_use(args));
      color[c] = value > 0.0f ? value : 0.0f;
    }
  } else {
    bit_color(args, i, Y, color);
  }
}

// The gradient of a channel: the sum of its terms v_channel[j * stride].
NFC_HD float sum_terms(const float* v_channel, int stride, int terms) {
  float sum = 0.0f;
  for (int j = 0; j < terms; ++j) sum += v_channel[size_t(j) * stride];
  return sum;
}

template <class To>
NFC_HD void bit_color_backward(const RenderArgs& args, size_t i, const Vec3<float>& d, const float* terms,
                               int term_stride, int term_count, const To& to, Vec3<float>& v_d) {
  float Y[kMaxBases], v_Y[kMaxBases] = {};
  sh_basis(args.sh_degree, d.x, d.y, d.z, Y);
  const int bits = kColorBits / args.shift_columns;
  const bool decoded = args.color_channels != kColorBits;
  float v_color = 0.0f;
#pragma unroll 1
  for (int group = 0; group < args.shift_columns; ++group) {
    const float* shifts = shifts_of(args, args.bit_shifts, i, group);
    const float shift = harmonics<1>(Y, shifts, args.shift_columns, bases_in_use(args));
    float v_shift = 0.0f;
#pragma unroll 1
    for (int index = group * bits; index < (group + 1) * bits; ++index) {
      const float p = sigmoid(args.bit_logits[i * kColorBits + index] + shift);
      const int channel = decoded ? index / kBits : index;
      if (!decoded || index % kBits == 0) v_color = sum_terms(terms + channel, term_stride, term_count);
      const float v_p = decoded ? place_value(index % kBits) * v_color : v_color;
      const float v_logit = v_p * p * (1.0f - p);
      to.bit_logits(i)[index] = v_logit;
      v_shift += v_logit;
    }
    shift_backward(args, Y, shifts, v_shift, to.bit_shifts(i), group, v_Y);
  }
  v_d = direction_backward(args, d, v_Y);
}

// From the gradient of the color of Gaussian i, given as terms to be added up: passes on that of the coefficients and
// returns that of the mean, through the direction.
template <bool kBitColors, class To>
NFC_HD Vec3<float> view_color_backward(const RenderArgs& args, const PinholeCamera& cam, const Vec3<float>& mean,
                                       size_t i, const float* terms, int term_stride, int term_count, const To& to) {
  const ViewDirection view = view_direction(cam, mean);
  const Vec3<float> d = view.unit;
  Vec3<float> v = {0.0f, 0.0f, 0.0f};
  if constexpr (kBitColors) {
    bit_color_backward(args, i, d, terms, term_stride, term_count, to, v);
  } else {
    sh_color_backward(args, i, d, terms, term_stride, term_count, to, v);
  }
  const float radial = dot(v, d);
  return {(v.x - radial * d.x) * view.inv_length, (v.y - radial * d.y) * view.inv_length,
          (v.z - radial * d.z) * view.inv_length};
}

}  // namespace nfc
