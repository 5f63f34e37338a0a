#include "loss.h"

#include <functional>

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"
#include "stages.h"

namespace nfc {
namespace {

// Calls pass(row) for all rows of an image, in parallel.
void by_rows(int height, const std::function<void(int)>& pass) {
  constexpr int kRows = 8;
  parallel_ranges(height, kRows, [&](int begin, int end) {
    for (int row = begin; row < end; ++row) pass(row);
  });
}

}  // namespace

LossValues photometric_loss(LossJob& job) {
  StageTimer timer(kLoss);
  static thread_local Buffer<float> scratch;
  static thread_local Buffer<double> sums;
  const Kernels& k = kernels();
  const int strips = pieces_of(3 * job.width, kStrip);
  job.stride = strips * kStrip;
  if (job.stride % 1024 == 0) job.stride += kStrip;  // rows a multiple of 4 KiB apart would share cache sets
  const size_t plane = size_t(job.height) * job.stride;
  job.blurred = scratch.reserve(7 * plane);
  job.derivative = job.blurred + 4 * plane;
  job.row_sums = sums.reserve(3 * size_t(job.height) + strips);
  job.strip_sums = job.row_sums + 3 * size_t(job.height);
  by_rows(job.height, [&](int row) { k.loss_rows(job, row); });
  parallel_for(strips, [&](int strip) { k.loss_strip(job, strip); });
  by_rows(job.height, [&](int row) { k.loss_gradient(job, row); });
  LossValues values = {0.0, 0.0, 0.0, 0.0};
  for (int row = 0; row < job.height; ++row) {
    values.l1 += job.row_sums[3 * size_t(row)];
    values.mse += job.row_sums[3 * size_t(row) + 1];
    values.ce += job.row_sums[3 * size_t(row) + 2];
  }
  for (int strip = 0; strip < strips; ++strip) values.dssim += job.strip_sums[strip];
  values.l1 *= job.inv_count, values.dssim *= job.inv_count, values.mse *= job.inv_count;
  values.ce *= job.inv_count;
  return values;
}

double bit_loss(BitLossJob& job) {
  StageTimer timer(kLoss);
  static thread_local Buffer<double> sums;
  const Kernels& k = kernels();
  job.row_sums = sums.reserve(size_t(job.height));
  by_rows(job.height, [&](int row) { k.bit_loss(job, row); });
  double total = 0.0;
  for (int row = 0; row < job.height; ++row) total += job.row_sums[row];
  return total;
}

}  // namespace nfc
