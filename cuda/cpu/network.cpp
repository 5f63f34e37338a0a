#include "network.h"

#include <algorithm>

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"
#include "stages.h"

namespace nfc {
namespace {

// The last layer, padded with rows of zeros to a multiple of 8.
struct PaddedLayer {
  Buffer<float> weights, bias;

  explicit PaddedLayer(NetworkJob& job) {
    job.padded_outputs = 8 * pieces_of(job.outputs, 8);
    const size_t used = size_t(job.outputs) * job.width, all = size_t(job.padded_outputs) * job.width;
    float* w = weights.reserve(all);
    std::copy(job.w3, job.w3 + used, w), std::fill(w + used, w + all, 0.0f);
    float* b = bias.reserve(job.padded_outputs);
    std::copy(job.b3, job.b3 + job.outputs, b), std::fill(b + job.outputs, b + job.padded_outputs, 0.0f);
    job.w3 = w, job.b3 = b;
  }
};

const float* transposed(const float* w, int rows, int columns, Buffer<float>& scratch) {
  float* out = scratch.reserve(size_t(rows) * columns);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) out[size_t(c) * rows + r] = w[size_t(r) * columns + c];
  return out;
}

}  // namespace

void network(NetworkJob job) {
  StageTimer timer(kNetwork);
  const PaddedLayer padded(job);
  const Kernels& k = kernels();
  parallel_for(pieces_of(job.count, kPointsPerTile), [&](int tile) { k.network(job, tile); });
}

// Chunks of tiles, which do not depend on the number of threads, have sums of their own, added up in a fixed order.
void network_backward(NetworkJob job, float* v_weights) {
  StageTimer timer(kNetworkBackward);
  const PaddedLayer padded(job);
  Buffer<float> scratch[4];
  job.w1_transposed = transposed(job.w1, job.width, job.inputs, scratch[0]);
  job.w2_transposed = transposed(job.w2, job.width, job.width, scratch[1]);
  job.w3_transposed = transposed(job.w3, job.padded_outputs, job.width, scratch[2]);
  const size_t hidden = size_t(job.width) * (job.inputs + 1) + size_t(job.width) * (job.width + 1);
  const size_t size = hidden + size_t(job.padded_outputs) * (job.width + 1);
  float* partial = scratch[3].reserve(kChunks * size);
  const Kernels& k = kernels();
  const int tiles = pieces_of(job.count, kPointsPerTile);
  parallel_for(kChunks, [&](int chunk) {
    float* sums = partial + chunk * size;
    std::fill(sums, sums + size, 0.0f);
    for (int tile = chunk * tiles / kChunks; tile < (chunk + 1) * tiles / kChunks; ++tile)
      k.network_backward(job, tile, sums);
  });
  for (int chunk = 1; chunk < kChunks; ++chunk)
    for (size_t i = 0; i < size; ++i) partial[i] += partial[chunk * size + i];
  const size_t last = size_t(job.outputs) * job.width;
  v_weights = std::copy(partial, partial + hidden + last, v_weights);
  const float* v_b3 = partial + hidden + size_t(job.padded_outputs) * job.width;
  std::copy(v_b3, v_b3 + job.outputs, v_weights);
}

}  // namespace nfc
