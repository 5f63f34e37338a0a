// Where the gradients of Gaussians go: into memory, or at once into a step of Adam, by which they are never stored.
#pragma once

#include "../include/nfc_gs/adam.h"
#include "../include/nfc_gs/bits.h"
#include "render.h"

namespace nfc {

// A place that takes a gradient in the way of a float, but moves the value that the gradient is of.
struct AdamValue {
  const SplatAdam& adam;
  const SplatParameter& parameter;
  size_t at;
  float rate;

  NFC_HD void operator=(float gradient) const {
    adam_move(adam.constants, adam.bfloat16_moments, parameter.value, parameter.first, parameter.second, at, gradient,
              rate);
  }
};

// A row of such places.
struct AdamRow {
  const SplatAdam& adam;
  const SplatParameter& parameter;
  size_t first;

  NFC_HD AdamValue operator[](int column) const {
    const float rate = column < parameter.first_columns ? parameter.first_rate : parameter.rate;
    return {adam, parameter, first + column, rate};
  }
};

// Rows of the arrays of gradients; those of scale and opacity are of the raw values, if these are given.
struct StoredGradients {
  static constexpr bool kAdam = false;
  const RenderArgs& args;

  NFC_HD float* means(size_t i) const { return args.v_means + 3 * i; }
  NFC_HD float* quats(size_t i) const { return args.v_quats + 4 * i; }
  NFC_HD float* scales(size_t i) const { return (args.log_scales ? args.v_log_scales : args.v_scales) + 3 * i; }
  NFC_HD float* opacities(size_t i) const { return (args.log_scales ? args.v_opacity_logits : args.v_opacities) + i; }
  NFC_HD float* bit_logits(size_t i) const { return args.v_bit_logits + kColorBits * i; }
  NFC_HD float* bit_shifts(size_t i) const {
    return args.v_bit_shifts + i * size_t(args.shift_columns) * size_t(args.sh_bases - 1);
  }

  // The gradient of the coefficients of SH basis k, whose value is Y (0 if it is not in use).
  NFC_HD void sh_coeffs(size_t i, int k, float Y, const float* v_color) const {
    float* v = args.v_sh_coeffs + 3 * (i * size_t(args.sh_bases) + k);
#pragma unroll
    for (int c = 0; c < 3; ++c) v[c] = v_color[c] * Y;
  }
};

// What a thread keeps of the gradient of its SH coefficients: the values of the bases and the gradient of the color. An
// odd number of floats, so that threads use different banks of shared memory.
constexpr int kKeptHarmonics = kMaxBases + 3;

// A step of Adam for each value of raw Gaussians; that of SH coefficients is left to `step_harmonics`, which needs what
// is kept here in the shared memory `Kept`.
template <class Kept>
struct AdamGradients {
  static constexpr bool kAdam = true;
  const RenderArgs& args;
  Kept& kept;

  NFC_HD AdamRow means(size_t i) const { return row(args.adam.means, 3 * i); }
  NFC_HD AdamRow quats(size_t i) const { return row(args.adam.quats, 4 * i); }
  NFC_HD AdamRow scales(size_t i) const { return row(args.adam.log_scales, 3 * i); }
  NFC_HD AdamRow opacities(size_t i) const { return row(args.adam.opacity_logits, i); }
  NFC_HD AdamRow bit_logits(size_t i) const { return row(args.adam.bit_logits, kColorBits * i); }
  NFC_HD AdamRow bit_shifts(size_t i) const {
    return row(args.adam.bit_shifts, i * size_t(args.shift_columns) * size_t(args.sh_bases - 1));
  }

  NFC_HD void sh_coeffs(size_t, int k, float Y, const float* v_color) const {
    const int first = threadIdx.x * kKeptHarmonics;
    kept[first + k] = Y;
    if (k > 0) return;
#pragma unroll
    for (int c = 0; c < 3; ++c) kept[first + kMaxBases + c] = v_color[c];
  }

 private:
  NFC_HD AdamRow row(const SplatParameter& parameter, size_t first) const {
    return {args.adam, parameter, first};
  }
};

// A warp takes the step of the SH coefficients of its Gaussians `rows` (bit j for Gaussian first + j), of two at a time
// by half a warp each, so that it reads and writes whole lines of memory.
template <class Kept>
NFC_HD void step_harmonics(const RenderArgs& args, int first, unsigned rows, Kept& kept) {
  constexpr int kHalf = kWarp / 2, kColumns = 3 * kMaxBases;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x - lane, columns = 3 * args.sh_bases;
  while (rows) {
    const int one = __ffs(int(rows)) - 1;
    rows &= rows - 1;
    const int other = __ffs(int(rows)) - 1;
    rows &= rows - 1;
    const int row = lane < kHalf ? one : other;
    if (row < 0) continue;
    const int mine = (warp + row) * kKeptHarmonics;
    const AdamRow to = {args.adam, args.adam.sh_coeffs, size_t(first + row) * size_t(columns)};
#pragma unroll
    for (int begin = 0; begin < kColumns; begin += kHalf) {
      const int column = begin + lane % kHalf;
      if (column < columns) to[column] = kept[mine + kMaxBases + column % 3] * kept[mine + column / 3];
    }
  }
}

}  // namespace nfc
