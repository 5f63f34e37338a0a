// How alike two images are: the sums that PSNR and SSIM (Wang et al. 2004, eq. 13) are made of, in double precision,
// since figures that papers compare must not depend on how they were summed. The window of SSIM is separable: each row
// is blurred along itself into a ring of as many rows as the window has, and those are blurred down their columns.
#pragma once

#include "jobs.h"
#include "../../include/nfc_gs/constants.h"
#include "../../include/nfc_gs/numeric.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

constexpr int kHaloValues = 3 * (NFC_SSIM_WINDOW - 1);  // beyond a chunk of a row, all of it at the right
constexpr int kQuantities = 4;                          // x, y, x^2 + y^2 and x y

// How many values of a row are compared at once where so many of its pixels are left.
inline int chunk_values(int pixels) { return pixels < kMetricChunk / 3 ? 3 * pixels : kMetricChunk; }

// Values [first, first + n) of an image, 0 to 1.
inline void read_values(const ImageValues& image, size_t first, int n, double* out) {
  if (image.type == ValueType::kByte) {
    const uint8_t* in = static_cast<const uint8_t*>(image.data) + first;
    for (int i = 0; i < n; ++i) out[i] = double(in[i]) / 255.0;
  } else if (image.type == ValueType::kFloat) {
    const float* in = static_cast<const float*>(image.data) + first;
    for (int i = 0; i < n; ++i) out[i] = double(in[i]);
  } else {
    memcpy(out, static_cast<const double*>(image.data) + first, size_t(n) * sizeof(double));
  }
  for (int i = 0; i < n; ++i) out[i] = out[i] < 0.0 ? 0.0 : out[i] > 1.0 ? 1.0 : out[i];  // NaN stays
}

// 1 for each of the n values of a row, from a column on, that count, and 0 for the others.
inline void read_weights(const SimilarityJob& job, int row, int column, int n, double* out) {
  const uint8_t* counted = job.counted ? job.counted + size_t(row) * size_t(job.width) + column : nullptr;
  for (int i = 0; i < n; ++i) out[i] = !counted || counted[i / 3] ? 1.0 : 0.0;
}

// Squared differences of the values that count, summed over the rows [begin, end).
double squared_error(const SimilarityJob& job, int begin, int end) {
  double x[kMetricChunk], y[kMetricChunk], weight[kMetricChunk], total = 0.0;
  for (int row = begin; row < end; ++row) {
    for (int column = 0; column < job.width; column += kMetricChunk / 3) {
      const int n = chunk_values(job.width - column);
      const size_t first = 3 * (size_t(row) * size_t(job.width) + size_t(column));
      read_values(job.x, first, n, x), read_values(job.y, first, n, y), read_weights(job, row, column, n, weight);
      for (int i = 0; i < n; ++i) weight[i] *= (x[i] - y[i]) * (x[i] - y[i]);
      for (int i = 0; i < n; ++i) total += weight[i];
    }
  }
  return total;
}

// n values of a row of both images, from a column on, each quantity blurred along the row; reads kHaloValues beyond n.
// What does not count is 0 in both images.
inline void blur_image_row(const SimilarityJob& job, int row, int column, int n, double* const* out) {
  constexpr int kRoom = kMetricChunk + kHaloValues;
  double weight[kRoom], in[kQuantities][kRoom];
  const size_t first = 3 * (size_t(row) * size_t(job.width) + size_t(column));
  const int read = n + kHaloValues;
  read_values(job.x, first, read, in[0]), read_values(job.y, first, read, in[1]);
  read_weights(job, row, column, read, weight);
  for (int i = 0; i < read; ++i) {
    const double x = in[0][i] * weight[i], y = in[1][i] * weight[i];
    in[0][i] = x, in[1][i] = y, in[2][i] = x * x + y * y, in[3][i] = x * y;
  }
  for (int q = 0; q < kQuantities; ++q) {
    for (int i = 0; i < n; ++i) {
      double sum = 0.0;
      for (int k = 0; k < NFC_SSIM_WINDOW; ++k) sum += job.window[k] * in[q][i + 3 * k];
      out[q][i] = sum;
    }
  }
}

// SSIM at the n values under windows whose rows are in `ring`, the topmost in its slot `top`.
inline void similarity_row(const SimilarityJob& job, const double* ring, int top, int n, double* out) {
  double mean[kQuantities][kMetricChunk];
  for (int q = 0; q < kQuantities; ++q) {
    const double* rows[NFC_SSIM_WINDOW];
    for (int k = 0; k < NFC_SSIM_WINDOW; ++k)
      rows[k] = ring + size_t(q * NFC_SSIM_WINDOW + (top + k) % NFC_SSIM_WINDOW) * kMetricChunk;
    for (int i = 0; i < n; ++i) {
      double sum = 0.0;
      for (int k = 0; k < NFC_SSIM_WINDOW; ++k) sum += job.window[k] * rows[k][i];
      mean[q][i] = sum;
    }
  }
  for (int i = 0; i < n; ++i) {
    const double mx = mean[0][i], my = mean[1][i], product = mx * my, squares = mx * mx + my * my;
    const double numerator = (2.0 * product + job.c1) * (2.0 * (mean[3][i] - product) + job.c2);
    out[i] = numerator / ((squares + job.c1) * (mean[2][i] - squares + job.c2));
  }
}

// SSIM of the values that count, summed over the windows whose topmost rows are [begin, end) and which lie in the image.
// `ring`: kRingValues of scratch.
double similarity(const SimilarityJob& job, int begin, int end, double* ring) {
  double value[kMetricChunk], weight[kMetricChunk], total = 0.0;
  const int columns = job.width - (NFC_SSIM_WINDOW - 1);
  for (int column = 0; column < columns; column += kMetricChunk / 3) {
    const int n = chunk_values(columns - column);
    for (int row = begin; row < end + NFC_SSIM_WINDOW - 1; ++row) {
      double* slots[kQuantities];
      for (int q = 0; q < kQuantities; ++q)
        slots[q] = ring + size_t(q * NFC_SSIM_WINDOW + row % NFC_SSIM_WINDOW) * kMetricChunk;
      blur_image_row(job, row, column, n, slots);
      const int top = row - (NFC_SSIM_WINDOW - 1);
      if (top < begin) continue;
      similarity_row(job, ring, top % NFC_SSIM_WINDOW, n, value);
      read_weights(job, top + NFC_SSIM_WINDOW / 2, column + NFC_SSIM_WINDOW / 2, n, weight);
      for (int i = 0; i < n; ++i) total += weight[i] * value[i];
    }
  }
  return total;
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
