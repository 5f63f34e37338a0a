// The photometric loss and its gradient. SSIM's window is separable: a block loads a tile of both images and a border
// around it into shared memory, blurs along rows and then, each thread for its pixel, down columns. The forward pass
// stores the derivatives with respect to the blurred quantities; the backward pass blurs them in the same way. Sums
// have a fixed order.

#include "../include/nfc_gs/bits.h"
#include "../include/nfc_gs/loss.h"
#include "train.h"

namespace nfc {

constexpr int kThreads = kLossTile * kLossTile;
constexpr int kHalf = NFC_SSIM_WINDOW / 2;
constexpr int kPadded = kLossTile + 2 * kHalf;  // pixels along the side of a tile with its border
constexpr int kPaddedRow = 3 * kPadded;         // values of a row of it
constexpr int kBlurred = kPadded * kLossTile;   // pixels of it that are left once rows have been blurred
constexpr int kWarps = kThreads / kWarp;

NFC_HD bool counts(const unsigned char* mask, size_t pixel) { return !mask || mask[pixel] >= 128; }

// The index in the image of value `k` of a block's tile with its border; -1 if it is outside or does not count.
NFC_HD int index_of(const LossArgs& args, int left, int top, int k) {
  const int row = top - kHalf + k / kPaddedRow, column = 3 * (left - kHalf) + k % kPaddedRow;
  if (row < 0 || row >= args.height || column < 0 || column >= 3 * args.width) return -1;
  const int pixel = row * args.width + column / 3;
  return counts(args.mask, size_t(pixel)) ? 3 * pixel + column % 3 : -1;
}

NFC_HD float truth(unsigned char value) { return float(value) * (1.0f / 255.0f); }

// The sum of a value of all lanes, in lane 0.
NFC_HD float sum_of_warp(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

}  // namespace nfc

NFC_KERNEL(loss, nfc::LossArgs, nfc::kThreads) {
  using namespace nfc;
  NFC_SHARED(float, x, kPadded * kPaddedRow);
  NFC_SHARED(float, y, kPadded * kPaddedRow);
  NFC_SHARED(float, blurred, 4 * kBlurred);  // x, y, x^2 + y^2, x y
  NFC_SHARED(float, warp_sums, kWarps * kLossTerms);
  const int thread = threadIdx.x, tile = blockIdx.x;
  const int left = tile % args.tiles_x * kLossTile, top = tile / args.tiles_x * kLossTile;
  for (int k = thread; k < kPadded * kPaddedRow; k += kThreads) {
    const int at = index_of(args, left, top, k);
    x[k] = at < 0 ? 0.0f : args.rendered[at];
    y[k] = at < 0 ? 0.0f : truth(args.target[at]);
  }
  __syncthreads();

  const int tx = thread % kLossTile, ty = thread / kLossTile, column = left + tx, row = top + ty;
  const bool inside = column < args.width && row < args.height;
  const int pixel = inside ? row * args.width + column : 0;
  const bool counted = inside && counts(args.mask, size_t(pixel));
  const float scale = counted ? args.ssim_weight * args.inv_count[0] : 0.0f;
  float sums[kLossTerms] = {};
  for (int c = 0; c < 3; ++c) {
    for (int k = thread; k < kBlurred; k += kThreads) {
      float mean_x = 0.0f, mean_y = 0.0f, squares = 0.0f, product = 0.0f;
      const int first = k / kLossTile * kPaddedRow + k % kLossTile * 3 + c;
#pragma unroll
      for (int j = 0; j < NFC_SSIM_WINDOW; ++j) {
        const float a = x[first + 3 * j], b = y[first + 3 * j], w = args.window[j];
        mean_x = fmaf(w, a, mean_x), mean_y = fmaf(w, b, mean_y);
        squares = fmaf(w, fmaf(a, a, b * b), squares), product = fmaf(w, a * b, product);
      }
      blurred[k] = mean_x, blurred[kBlurred + k] = mean_y;
      blurred[2 * kBlurred + k] = squares, blurred[3 * kBlurred + k] = product;
    }
    __syncthreads();
    float mean[4] = {};
#pragma unroll
    for (int j = 0; j < NFC_SSIM_WINDOW; ++j)
#pragma unroll
      for (int q = 0; q < 4; ++q)
        mean[q] = fmaf(args.window[j], float(blurred[q * kBlurred + (ty + j) * kLossTile + tx]), mean[q]);
    __syncthreads();
    const Ssim<float> s = ssim_of(mean[0], mean[1], mean[2], mean[3], scale);
    if (inside && args.derivative) {
      const size_t at = 3 * size_t(pixel) + c, plane = 3 * size_t(args.width) * args.height;
      args.derivative[at] = s.v_mean, args.derivative[plane + at] = s.v_squares;
      args.derivative[2 * plane + at] = s.v_product;
    }
    if (!counted) continue;
    const int here = (ty + kHalf) * kPaddedRow + 3 * (tx + kHalf) + c;
    const float a = x[here], b = y[here], difference = a - b;
    sums[0] += fabsf(difference), sums[1] = fmaf(difference, difference, sums[1]), sums[2] += 1.0f - s.value;
    if (args.ce_weight != 0.0f) {
      float unused;
      sums[3] -= kLn2 * log_likelihood(a, b, args.ce_eps, 1.0f - args.ce_eps, &unused);
    }
  }
#pragma unroll
  for (int j = 0; j < kLossTerms; ++j) {
    const float sum = sum_of_warp(sums[j]);
    if (thread % kWarp == 0) warp_sums[thread / kWarp * kLossTerms + j] = sum;
  }
  __syncthreads();
  if (thread >= kLossTerms) return;
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[warp * kLossTerms + thread];
  args.sums[size_t(tile) * kLossTerms + thread] = sum;
}

// One block: the terms and the loss, from the sums of all blocks.
NFC_KERNEL(loss_values, nfc::LossArgs, nfc::kThreads) {
  using namespace nfc;
  constexpr int kParts = kThreads / kLossTerms;
  NFC_SHARED(double, partial, kThreads);
  const int thread = threadIdx.x, term = thread % kLossTerms;
  double sum = 0.0;
  for (int tile = thread / kLossTerms; tile < args.tiles; tile += kParts)
    sum += double(args.sums[size_t(tile) * kLossTerms + term]);
  partial[thread] = sum;
  for (int step = kParts / 2; step > 0; step /= 2) {
    __syncthreads();
    if (thread < step * kLossTerms) partial[thread] += double(partial[thread + step * kLossTerms]);
  }
  __syncthreads();
  if (thread > 0) return;
  const float weights[kLossTerms] = {args.l1_weight, args.mse_weight, args.ssim_weight, args.ce_weight};
  float loss = 0.0f;
  for (int j = 0; j < kLossTerms; ++j) {
    const float value = float(double(partial[j]) * double(args.inv_count[0]));
    args.values[j] = value;
    loss += weights[j] * value;
  }
  args.values[kLossTerms] = loss;
}

NFC_KERNEL(loss_gradient, nfc::LossArgs, nfc::kThreads) {
  using namespace nfc;
  NFC_SHARED(float, derivative, 3 * kPadded * kPaddedRow);
  NFC_SHARED(float, blurred, 3 * kBlurred);
  const int thread = threadIdx.x, tile = blockIdx.x;
  const int left = tile % args.tiles_x * kLossTile, top = tile / args.tiles_x * kLossTile;
  const bool with_ssim = args.derivative != nullptr;
  if (with_ssim) {
    const size_t plane = 3 * size_t(args.width) * args.height;
    for (int k = thread; k < kPadded * kPaddedRow; k += kThreads) {
      const int at = index_of(args, left, top, k);  // the derivatives of values that do not count are zero anyway
      for (int q = 0; q < 3; ++q)
        derivative[q * kPadded * kPaddedRow + k] = at < 0 ? 0.0f : args.derivative[q * plane + at];
    }
    __syncthreads();
  }
  const int tx = thread % kLossTile, ty = thread / kLossTile, column = left + tx, row = top + ty;
  const bool inside = column < args.width && row < args.height;
  const size_t pixel = inside ? size_t(row) * args.width + column : 0;
  const bool counted = inside && counts(args.mask, pixel);
  const float inv_count = args.inv_count[0], v_loss = args.v_loss[0];
  for (int c = 0; c < 3; ++c) {
    float mean[3] = {};
    if (with_ssim) {
      for (int k = thread; k < kBlurred; k += kThreads) {
        const int first = k / kLossTile * kPaddedRow + k % kLossTile * 3 + c;
#pragma unroll
        for (int q = 0; q < 3; ++q) {
          float sum = 0.0f;
#pragma unroll
          for (int j = 0; j < NFC_SSIM_WINDOW; ++j)
            sum = fmaf(args.window[j], float(derivative[q * kPadded * kPaddedRow + first + 3 * j]), sum);
          blurred[q * kBlurred + k] = sum;
        }
      }
      __syncthreads();
#pragma unroll
      for (int j = 0; j < NFC_SSIM_WINDOW; ++j)
#pragma unroll
        for (int q = 0; q < 3; ++q)
          mean[q] = fmaf(args.window[j], float(blurred[q * kBlurred + (ty + j) * kLossTile + tx]), mean[q]);
      __syncthreads();
    }
    if (!inside) continue;
    float v = 0.0f;
    if (counted) {
      const float x = args.rendered[3 * pixel + c], y = truth(args.target[3 * pixel + c]), difference = x - y;
      const float sign = difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : 0.0f;
      v = args.l1_weight * sign + 2.0f * args.mse_weight * difference;
      if (args.ce_weight != 0.0f) {
        float derivative_of_ce;
        log_likelihood(x, y, args.ce_eps, 1.0f - args.ce_eps, &derivative_of_ce);
        v += args.ce_weight * derivative_of_ce;
      }
      v = fmaf(v, inv_count, mean[0] + 2.0f * x * mean[1] + y * mean[2]);
    }
    args.gradient[3 * pixel + c] = v * v_loss;
  }
}

namespace nfc {

// The weight of a bit in the loss, and its label.
struct BitTarget {
  float weight, label;
};

NFC_HD BitTarget bit_target(const BitLossArgs& args, size_t k) {
  const size_t value = k / kBits;
  const int bit = int(k % kBits);
  if (!counts(args.mask, value / 3)) return {0.0f, 0.0f};
  return {place_value(bit) * args.inv_count[0], float(args.target[value] >> (kBits - 1 - bit) & 1)};
}

}  // namespace nfc

NFC_KERNEL(bit_loss, nfc::BitLossArgs, nfc::kThreads) {
  using namespace nfc;
  NFC_SHARED(float, warp_sums, kWarps);
  const size_t k = size_t(blockIdx.x) * kThreads + threadIdx.x;
  float loss = 0.0f, unused;
  if (k < size_t(args.count)) {
    const BitTarget bit = bit_target(args, k);
    const float likelihood = log_likelihood(args.probabilities[k], bit.label, args.eps, 1.0f - args.eps, &unused);
    loss = bit.weight == 0.0f ? 0.0f : -kLn2 * bit.weight * likelihood;
  }
  loss = sum_of_warp(loss);
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = loss;
  __syncthreads();
  if (threadIdx.x > 0) return;
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[warp];
  args.sums[blockIdx.x] = sum;
}

NFC_KERNEL(bit_loss_gradient, nfc::BitLossArgs, nfc::kThreads) {
  using namespace nfc;
  const size_t k = size_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= size_t(args.count)) return;
  const BitTarget bit = bit_target(args, k);
  float derivative;
  log_likelihood(args.probabilities[k], bit.label, args.eps, 1.0f - args.eps, &derivative);
  args.gradient[k] = bit.weight == 0.0f ? 0.0f : args.v_loss[0] * bit.weight * derivative;
}
