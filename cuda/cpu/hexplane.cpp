#include "hexplane.h"

#include <algorithm>
#include <cstring>

#include "buffer.h"
#include "dispatch.h"
#include "morton.h"
#include "parallel.h"
#include "stages.h"

namespace nfc {
namespace {

constexpr int kBlockPoints = 512;    // points of a block of the backward pass
constexpr int kPointsPerPiece = 64;  // of these, per item of parallel work

}  // namespace

void hexplane(HexPlaneJob& job) {
  StageTimer timer(kHexPlane);
  static thread_local Buffer<uint32_t> order[4];
  job.order = morton_order(job.coords, job.count, order);
  const Kernels& k = kernels();
  parallel_ranges(job.count, kRowsPerPiece, [&](int begin, int end) { k.hexplane(job, begin, end); });
}

// Block by block, so that the gradients of the samples stay in the cache between the two passes: one in parallel over
// the points, which writes them, and one in parallel over the planes, which adds them up in a fixed order.
void hexplane_backward(HexPlaneJob& job) {
  StageTimer timer(kHexPlaneBackward);
  const Kernels& k = kernels();
  const int planes = 6 * job.levels;
  static thread_local Buffer<float> scratch;
  static thread_local Buffer<uint32_t> order[4];
  job.order = morton_order(job.coords, job.count, order);
  // A few cache lines more than a power of two, or the gradients of all planes would share cache sets.
  job.sample_stride = size_t(kBlockPoints) * job.features + 5 * 16;
  job.v_samples = scratch.reserve(size_t(planes) * job.sample_stride);
  parallel_for(planes, [&](int i) {
    std::memset(job.v_planes[i], 0, sizeof(float) * size_t(job.rows[i]) * job.columns[i] * job.features);
  });
  for (int begin = 0; begin < job.count; begin += kBlockPoints) {
    job.block_begin = begin, job.block_end = std::min(begin + kBlockPoints, job.count);
    parallel_ranges(job.block_end - begin, kPointsPerPiece, [&](int first, int last) {
      k.hexplane_backward(job, begin + first, begin + last);
    });
    parallel_for(planes, [&](int plane) { k.hexplane_scatter(job, plane); });
  }
}

void plane_regularisers(const PlaneJob& job) {
  const Kernels& k = kernels();
  parallel_for(job.rows, [&](int row) { k.plane_regularisers(job, row); });
}

}  // namespace nfc
