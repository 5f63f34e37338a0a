// Fused photometric loss of one image, forward and backward: L1, squared error, cross entropy (Yang et al. 2024, eq. 4
// and 5) and SSIM (Wang et al. 2004, eq. 13, with an 11-tap Gaussian window), weighted by a mask. SSIM needs only mu_x,
// mu_y, E[x^2 + y^2] and E[xy]. The window is separable: one pass along rows; one down columns, which also blurs the
// derivatives down columns; and one along rows that blurs these and adds up all gradients. Rows hold interleaved
// colors.
#pragma once

#include "simd.h"
#include "jobs.h"
#include "../../include/nfc_gs/bits.h"
#include "../../include/nfc_gs/loss.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

constexpr int kHalf = NFC_SSIM_WINDOW / 2;
constexpr int kHalo = 3 * kHalf;
constexpr int kChunkValues = 768;  // values of a row that are computed together: 256 pixels
constexpr int kPaddedChunk = (kChunkValues + 2 * kHalo + 2 * kLanes + 63) / 64 * 64;

struct Window {
  float w[NFC_SSIM_WINDOW];
};

inline Window gaussian_window() {
  Window g;
  float sum = 0.0f;
  for (int i = 0; i < NFC_SSIM_WINDOW; ++i) {
    const float d = float(i - kHalf);
    g.w[i] = expf(-d * d / (2.0f * NFC_SSIM_SIGMA * NFC_SSIM_SIGMA));
    sum += g.w[i];
  }
  for (int i = 0; i < NFC_SSIM_WINDOW; ++i) g.w[i] /= sum;
  return g;
}

inline float* plane_row(const LossJob& job, float* planes, int quantity, int row) {
  return planes + (size_t(quantity) * job.height + row) * job.stride;
}

inline float counted(const LossJob& job, int row, int column) {
  return !job.mask || job.mask[size_t(row) * job.width + column] >= 128 ? 1.0f : 0.0f;
}

// Rendered and target values [from, to) of a row, and zeros up to kLanes beyond; masked pixels are zero in both.
inline void gather(const LossJob& job, int row, int from, int to, float* x, float* y) {
  const size_t base = size_t(row) * 3 * job.width;
  memcpy(x, job.rendered + base + from, size_t(to - from) * sizeof(float));
  const uint8_t* target = job.target + base + from;
  for (int i = 0; i < to - from; ++i) y[i] = float(target[i]) * (1.0f / 255.0f);
  if (job.mask) {
    for (int i = 0; i < to - from; ++i) {
      const float w = counted(job, row, (from + i) / 3);
      x[i] *= w, y[i] *= w;
    }
  }
  memset(x + (to - from), 0, kLanes * sizeof(float)), memset(y + (to - from), 0, kLanes * sizeof(float));
}

// out[i] = sum_k w[k] in[i + 3 k] for i < n.
inline void blur_row(const Window& g, const float* in, int n, float* out) {
  for (int i = 0; i < n; i += kLanes) {
    Vf sum = g.w[0] * load(in + i);
    for (int k = 1; k < NFC_SSIM_WINDOW; ++k) sum = sum + g.w[k] * load(in + i + 3 * k);
    store(out + i, sum);
  }
}

void loss_rows(const LossJob& job, int row) {
  const Window g = gaussian_window();
  const int values = 3 * job.width;
  alignas(64) float x[kPaddedChunk], y[kPaddedChunk], squares[kPaddedChunk], product[kPaddedChunk];
  for (int from = 0; from < values; from += kChunkValues) {
    const int n = values - from < kChunkValues ? values - from : kChunkValues;
    const int before = from < kHalo ? from : kHalo, after = values - from - n < kHalo ? values - from - n : kHalo;
    const int start = kHalo - before;  // zeros stand for what is outside the image
    memset(x, 0, sizeof x), memset(y, 0, sizeof y);
    gather(job, row, from - before, from + n + after, x + start, y + start);
    for (int i = 0; i < n + 2 * kHalo + kLanes; i += kLanes) {  // all that the blur of whole vectors reads
      const Vf a = load(x + i), b = load(y + i);
      store(squares + i, a * a + b * b), store(product + i, a * b);
    }
    alignas(64) float out[kPaddedChunk];
    const float* quantity[4] = {x, y, squares, product};
    for (int q = 0; q < 4; ++q) {
      blur_row(g, quantity[q], n, out);
      // Whole vectors, so that the pass down columns reads no uninitialised memory beyond the last value.
      const int whole = (n + kLanes - 1) / kLanes * kLanes;
      memcpy(plane_row(job, job.blurred, q, row) + from, out, size_t(whole) * sizeof(float));
    }
  }
}

// Vectors of values at `row` of the first Q planes, blurred down their columns; rows outside the image are zero.
template <int Q>
inline void blur_columns(const LossJob& job, const Window& g, float* planes, int row, int at, Vf* out) {
  const int low = row < kHalf ? kHalf - row : 0;
  const int high = row + kHalf >= job.height ? job.height - 1 - row + kHalf : NFC_SSIM_WINDOW - 1;
  const size_t plane = size_t(job.height) * job.stride;
  const float* in = plane_row(job, planes, 0, row + low - kHalf) + at;
  for (int q = 0; q < Q; ++q) out[q] = Vf{};
  for (int k = low; k <= high; ++k, in += job.stride)
    for (int q = 0; q < Q; ++q) out[q] = out[q] + g.w[k] * load(in + q * plane);
}

// SSIM of the values [kStrip * strip, + kStrip) of all rows, and its derivatives.
void loss_strip(const LossJob& job, int strip) {
  const Window g = gaussian_window();
  const int values = 3 * job.width, begin = strip * kStrip, end = begin + kStrip < values ? begin + kStrip : values;
  const float scale = job.ssim_weight * job.inv_count;
  double total = 0.0;
  for (int row = 0; row < job.height; ++row) {
    Vf row_total = Vf{};
    for (int at = begin; at < end; at += kLanes) {
      Vf blurred[4];
      blur_columns<4>(job, g, job.blurred, row, at, blurred);
      alignas(64) float weight[kLanes];
      if (job.mask || at + kLanes > end) {
        for (int i = 0; i < kLanes; ++i) weight[i] = at + i < end ? counted(job, row, (at + i) / 3) : 0.0f;
      } else {
        store(weight, broadcast(1.0f));
      }
      const Vf w = load(weight);
      const Ssim<Vf> s = ssim_of(blurred[0], blurred[1], blurred[2], blurred[3], w * scale);
      row_total = row_total + (w - w * s.value);
      store(plane_row(job, job.derivative, 0, row) + at, s.v_mean);
      store(plane_row(job, job.derivative, 1, row) + at, s.v_squares);
      store(plane_row(job, job.derivative, 2, row) + at, s.v_product);
    }
    total += double(sum_lanes(row_total));
  }
  job.strip_sums[strip] = total;
  if (!job.gradient || job.ssim_weight == 0.0f) return;
  // The memory of what was blurred along rows, which nothing reads any more, takes the derivatives blurred down
  // columns.
  for (int row = 0; row < job.height; ++row) {
    for (int at = begin; at < end; at += kLanes) {
      Vf blurred[3];
      blur_columns<3>(job, g, job.derivative, row, at, blurred);
      for (int q = 0; q < 3; ++q) store(plane_row(job, job.blurred, q, row) + at, blurred[q]);
    }
  }
}

// How many of the values [from, from + n) of a row do not count, those that fill up the last vector included.
inline int ignored_values(const LossJob& job, int row, int from, int n) {
  int ignored = (kLanes - n % kLanes) % kLanes;
  for (int i = 0; job.mask && i < n; ++i) ignored += counted(job, row, (from + i) / 3) == 0.0f;
  return ignored;
}

// L1, squared error and, with Ce, cross entropy of a row, and the gradient of the whole loss with respect to the
// rendered row.
template <bool Ce>
inline void loss_gradient_with(const LossJob& job, int row) {
  const Window g = gaussian_window();
  const int values = 3 * job.width;
  const float l1 = job.l1_weight * job.inv_count, mse = 2.0f * job.mse_weight * job.inv_count;
  const float ce = job.ce_weight * job.inv_count;
  const Vf low = broadcast(job.ce_eps), high = broadcast(1.0f - job.ce_eps);
  double absolute = 0.0, squared = 0.0, likelihood = 0.0;
  alignas(64) float x[kPaddedChunk], y[kPaddedChunk], v[kPaddedChunk], in[kPaddedChunk], blurred[3][kPaddedChunk];
  for (int from = 0; from < values; from += kChunkValues) {
    const int n = values - from < kChunkValues ? values - from : kChunkValues;
    gather(job, row, from, from + n, x, y);
    Vf sum_absolute = Vf{}, sum_squared = Vf{}, sum_likelihood = Vf{};
    for (int i = 0; i < n; i += kLanes) {
      const Vf a = load(x + i), b = load(y + i), d = a - b;
      sum_absolute = sum_absolute + maximum(d, -d), sum_squared = sum_squared + d * d;
      Vf to_x = select(d > Vf{}, broadcast(l1), select(d < Vf{}, broadcast(-l1), Vf{})) + mse * d;
      if (Ce) {
        Vf derivative;
        sum_likelihood = sum_likelihood + log_likelihood(a, b, low, high, &derivative);
        to_x = to_x + ce * derivative;
      }
      store(v + i, to_x);
    }
    if (Ce) {  // values that do not count are 0 in both images, clipped, and each has added the same
      Vf unused;
      const double each = double(log_likelihood(Vf{}, Vf{}, low, high, &unused)[0]);
      likelihood += double(sum_lanes(sum_likelihood)) - each * double(ignored_values(job, row, from, n));
    }
    absolute += double(sum_lanes(sum_absolute)), squared += double(sum_lanes(sum_squared));
    if (!job.gradient) continue;
    if (job.ssim_weight != 0.0f) {
      const int before = from < kHalo ? from : kHalo, after = values - from - n < kHalo ? values - from - n : kHalo;
      for (int q = 0; q < 3; ++q) {
        memset(in, 0, sizeof in);
        memcpy(in + kHalo - before, plane_row(job, job.blurred, q, row) + from - before,
               size_t(before + n + after) * sizeof(float));
        blur_row(g, in, n, blurred[q]);
      }
      // Masked pixels are constants: x = y = 0 there, and the derivative with respect to mu_x must not reach them.
      for (int i = 0; i < n; i += kLanes) {
        const Vf to_x =
            load(blurred[0] + i) + 2.0f * load(x + i) * load(blurred[1] + i) + load(y + i) * load(blurred[2] + i);
        store(v + i, load(v + i) + to_x);
      }
      if (job.mask)
        for (int i = 0; i < n; ++i) v[i] *= counted(job, row, (from + i) / 3);
    }
    memcpy(job.gradient + size_t(row) * values + from, v, size_t(n) * sizeof(float));
  }
  job.row_sums[3 * size_t(row)] = absolute;
  job.row_sums[3 * size_t(row) + 1] = squared;
  job.row_sums[3 * size_t(row) + 2] = -double(kLn2) * likelihood;
}

void loss_gradient(const LossJob& job, int row) {
  if (job.ce_weight != 0.0f) {
    loss_gradient_with<true>(job, row);
  } else {
    loss_gradient_with<false>(job, row);
  }
}

// Cross entropy of a row's bit probabilities with the bits of the target, each bit weighted by its place value
// (Yang et al. 2024, eq. 3), and its gradient.
void bit_loss(const BitLossJob& job, int row) {
  constexpr int kPixels = 32, kValues = kPixels * kColorBits;
  alignas(64) float bit[kValues], weight[kValues], p[kValues], v[kValues];
  const Vf low = broadcast(job.eps), high = broadcast(1.0f - job.eps);
  double likelihood = 0.0;
  for (int from = 0; from < job.width; from += kPixels) {
    const int pixels = job.width - from < kPixels ? job.width - from : kPixels, n = pixels * kColorBits;
    const size_t first = size_t(row) * job.width + from;
    memset(p, 0, sizeof p), memset(weight, 0, sizeof weight), memset(bit, 0, sizeof bit);
    memcpy(p, job.probabilities + first * kColorBits, size_t(n) * sizeof(float));
    for (int i = 0; i < pixels; ++i) {
      const float counts = !job.mask || job.mask[first + i] >= 128 ? job.inv_count : 0.0f;
      for (int c = 0; c < 3; ++c) {
        const int value = job.target[3 * (first + i) + c];
        for (int j = 0; j < kBits; ++j) {
          bit[kColorBits * i + kBits * c + j] = float(value >> (kBits - 1 - j) & 1);
          weight[kColorBits * i + kBits * c + j] = counts * place_value(j);
        }
      }
    }
    Vf sum = Vf{};
    for (int i = 0; i < n; i += kLanes) {
      Vf derivative;
      const Vf w = load(weight + i);
      sum = sum + w * log_likelihood(load(p + i), load(bit + i), low, high, &derivative);
      store(v + i, w * derivative);
    }
    likelihood += double(sum_lanes(sum));
    if (job.gradient) memcpy(job.gradient + first * kColorBits, v, size_t(n) * sizeof(float));
  }
  job.row_sums[row] = -double(kLn2) * likelihood;
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
