#include "render.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>

#include "../include/nfc_gs/mcmc.h"
#include "parallel.h"

namespace nfc {
namespace {

std::atomic<const Kernels*> chosen{nullptr};

std::atomic<int64_t> stage_nanoseconds[kStages];

// Adds the time between its making and its end to a stage.
class StageTimer {
 public:
  explicit StageTimer(Stage stage) : stage_(stage), start_(std::chrono::steady_clock::now()) {}
  ~StageTimer() {
    const auto spent = std::chrono::steady_clock::now() - start_;
    stage_nanoseconds[stage_] += std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
  }

 private:
  Stage stage_;
  std::chrono::steady_clock::time_point start_;
};

constexpr int kRowsAtOnce = 512;      // Gaussians per item of parallel work
constexpr int kPointsAtOnce = 512;   // points whose gradients are added to the planes of a HexPlane together
constexpr int kPointsPerItem = 64;   // of these, per item of parallel work

int items_of(int count, int size) { return (count + size - 1) / size; }

}  // namespace

const char* const kStageNames[kStages] = {"project", "bin",  "raster", "raster_backward", "project_backward",
                                          "loss",    "adam", "noise",  "hexplane",        "hexplane_backward",
                                          "network", "network_backward"};

double stage_seconds(Stage stage) { return 1e-9 * double(stage_nanoseconds[stage].load()); }

const Kernels& kernels() {
  if (!chosen.load()) chosen.store(best_kernels());
  return *chosen.load();
}

bool use_kernels(const char* name) {
  const Kernels* wanted = kernels_by_name(name);
  if (wanted) chosen.store(wanted);
  return wanted != nullptr;
}

void Frame::attach(RenderJob& job) {
  const size_t n = size_t(job.count);
  job.tiles_x = items_of(job.camera.width, kTile), job.tiles_y = items_of(job.camera.height, kTile);
  job.records = records_.reserve(n);
  job.colors = colors_.reserve(n * job.channels);
  job.tile_used = tile_used_.reserve(size_t(job.tiles_x) * job.tiles_y);
  job.tile_begin = tile_begin_.get(), job.tile_entries = tile_entries_.get();
  job.splat_rank = splat_rank_.get(), job.entry_begin = entry_begin_.get();
}

void Frame::forward(RenderJob& job) {
  const Kernels& k = kernels();
  attach(job);
  tiles_x_ = job.tiles_x, tiles_ = job.tiles_x * job.tiles_y;
  {
    StageTimer timer(kProject);
    parallel_for(items_of(job.count, kRowsAtOnce), [&](int item) {
      const int begin = item * kRowsAtOnce;
      k.project(job, begin, std::min(begin + kRowsAtOnce, job.count));
    });
  }
  {
    StageTimer timer(kBin);
    bin(job);
    attach(job);
  }
  StageTimer timer(kRaster);
  parallel_for(tiles_, [&](int tile) { k.raster(job, tile); });
}

void Frame::backward(RenderJob& job, float* v_viewmat, float* v_background) {
  const Kernels& k = kernels();
  attach(job);
  const int tiles = tiles_, blocks = items_of(job.count, kCameraBlock);
  job.partial = partial_.reserve(entries_ * size_t(kMoments + job.channels));
  job.tile_background = v_background ? tile_background_.reserve(size_t(tiles) * job.channels) : nullptr;
  job.camera_partial = camera_partial_.reserve(12 * size_t(blocks));
  {
    StageTimer timer(kRasterBackward);
    parallel_for(tiles, [&](int tile) { k.raster_backward(job, tile); });
  }
  StageTimer timer(kProjectBackward);
  parallel_for(blocks, [&](int block) { k.project_backward(job, block); });
  if (v_viewmat) {
    double sum[12] = {};
    for (int block = 0; block < blocks; ++block)
      for (int j = 0; j < 12; ++j) sum[j] += double(job.camera_partial[12 * size_t(block) + j]);
    for (int j = 0; j < 16; ++j) v_viewmat[j] = j < 12 ? float(sum[j]) : 0.0f;
  }
  if (v_background) {
    const int channels = job.channels - (job.depth ? 1 : 0);
    for (int c = 0; c < channels; ++c) {
      double sum = 0.0;
      for (int tile = 0; tile < tiles; ++tile) sum += double(job.tile_background[size_t(tile) * job.channels + c]);
      v_background[c] = float(sum);
    }
  }
}

size_t Frame::evaluated_pairs() const {
  size_t rows = 0;
  for (int tile = 0; tile < tiles_; ++tile) {
    const int top = tile / tiles_x_ * kTile;
    const uint32_t begin = tile_begin_.get()[tile];
    for (uint32_t slot = begin; slot < begin + tile_used_.get()[tile]; ++slot) {
      const SplatRecord& s = records_.get()[tile_entries_.get()[slot].splat];
      rows += size_t(std::max(0, std::min(s.row_end, top + kTile) - std::max(s.row_begin, top)));
    }
  }
  return rows * kTile;
}

namespace {

void by_rows(int height, const std::function<void(int)>& pass) {
  constexpr int kRows = 8;
  parallel_for(items_of(height, kRows), [&](int item) {
    for (int row = item * kRows; row < height && row < (item + 1) * kRows; ++row) pass(row);
  });
}

}  // namespace

LossValues photometric_loss(LossJob& job) {
  StageTimer timer(kLoss);
  static thread_local Buffer<float> scratch;
  static thread_local Buffer<double> sums;
  const Kernels& k = kernels();
  const int strips = items_of(3 * job.width, kStrip);
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

void adam_step(const AdamJob& job) {
  StageTimer timer(kAdam);
  const Kernels& k = kernels();
  parallel_for(items_of(job.rows, kRowsAtOnce), [&](int item) {
    const int begin = item * kRowsAtOnce;
    k.adam(job, begin, std::min(begin + kRowsAtOnce, job.rows));
  });
}

namespace {

constexpr int kMortonBits = 7;  // per axis

// Every third bit of the result is one of x.
uint32_t spread_bits(uint32_t x) {
  x = (x | x << 16) & 0x030000FFu;
  x = (x | x << 8) & 0x0300F00Fu;
  x = (x | x << 4) & 0x030C30C3u;
  return (x | x << 2) & 0x09249249u;
}

// The points along a Morton curve through their box, a function of the points alone: two passes of a counting sort.
const uint32_t* morton_order(const float* coords, int count, Buffer<uint32_t> (&room)[4]) {
  constexpr int kDigit = (3 * kMortonBits + 1) / 2, kValues = 1 << kDigit;
  uint32_t *keys = room[0].reserve(count), *order = room[1].reserve(count);
  for (int i = 0; i < count; ++i) {
    uint32_t key = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const float cells = float(1 << kMortonBits), place = (coords[3 * size_t(i) + axis] + 1.0f) * 0.5f * cells;
      const uint32_t cell = place > 0.0f ? (place < cells - 1.0f ? uint32_t(place) : uint32_t(cells) - 1) : 0;
      key |= spread_bits(cell) << axis;
    }
    keys[i] = key, order[i] = uint32_t(i);
  }
  uint32_t *next_keys = room[2].reserve(count), *next = room[3].reserve(count);
  for (int shift = 0; shift < 3 * kMortonBits; shift += kDigit) {
    uint32_t first[kValues + 1] = {};
    for (int i = 0; i < count; ++i) ++first[(keys[i] >> shift & (kValues - 1)) + 1];
    for (int v = 0; v < kValues; ++v) first[v + 1] += first[v];
    for (int i = 0; i < count; ++i) {
      const uint32_t to = first[keys[i] >> shift & (kValues - 1)]++;
      next_keys[to] = keys[i], next[to] = order[i];
    }
    std::swap(keys, next_keys), std::swap(order, next);
  }
  return order;
}

}  // namespace

void hexplane(HexPlaneJob& job) {
  StageTimer timer(kHexPlane);
  static thread_local Buffer<uint32_t> room[4];
  job.order = morton_order(job.coords, job.count, room);
  const Kernels& k = kernels();
  parallel_for(items_of(job.count, kRowsAtOnce), [&](int item) {
    const int begin = item * kRowsAtOnce;
    k.hexplane(job, begin, std::min(begin + kRowsAtOnce, job.count));
  });
}

// Block by block, so that what goes from points to planes stays in the cache. Points are shared out among the threads
// first, planes then, so every sum has its order.
void hexplane_backward(HexPlaneJob& job) {
  StageTimer timer(kHexPlaneBackward);
  const Kernels& k = kernels();
  const int planes = 6 * job.levels;
  static thread_local Buffer<float> scratch;
  static thread_local Buffer<uint32_t> room[4];
  job.order = morton_order(job.coords, job.count, room);
  // A few cache lines more than a power of two, or the planes' gradients would crowd the same places of the cache.
  job.found_stride = size_t(kPointsAtOnce) * job.features + 5 * 16;
  job.v_found = scratch.reserve(size_t(planes) * job.found_stride);
  parallel_for(planes, [&](int i) {
    std::memset(job.v_planes[i], 0, sizeof(float) * size_t(job.rows[i]) * job.columns[i] * job.features);
  });
  for (int begin = 0; begin < job.count; begin += kPointsAtOnce) {
    job.block_begin = begin, job.block_end = std::min(begin + kPointsAtOnce, job.count);
    parallel_for(items_of(job.block_end - begin, kPointsPerItem), [&](int item) {
      const int first = begin + item * kPointsPerItem;
      k.hexplane_backward(job, first, std::min(first + kPointsPerItem, job.block_end));
    });
    parallel_for(planes, [&](int plane) { k.hexplane_scatter(job, plane); });
  }
}

void plane_regularisers(const PlaneJob& job) {
  const Kernels& k = kernels();
  parallel_for(job.rows, [&](int row) { k.plane_regularisers(job, row); });
}

namespace {

// The last layer with rows of zeros, so that it has a multiple of 8.
struct PaddedLayer {
  Buffer<float> weights, bias;

  explicit PaddedLayer(NetworkJob& job) {
    job.padded_outputs = 8 * items_of(job.outputs, 8);
    const size_t used = size_t(job.outputs) * job.width, all = size_t(job.padded_outputs) * job.width;
    float* w = weights.reserve(all);
    std::copy(job.w3, job.w3 + used, w), std::fill(w + used, w + all, 0.0f);
    float* b = bias.reserve(job.padded_outputs);
    std::copy(job.b3, job.b3 + job.outputs, b), std::fill(b + job.outputs, b + job.padded_outputs, 0.0f);
    job.w3 = w, job.b3 = b;
  }
};

const float* transposed(const float* w, int rows, int columns, Buffer<float>& room) {
  float* out = room.reserve(size_t(rows) * columns);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) out[size_t(c) * rows + r] = w[size_t(r) * columns + c];
  return out;
}

}  // namespace

void network(NetworkJob job) {
  StageTimer timer(kNetwork);
  const PaddedLayer padded(job);
  const Kernels& k = kernels();
  parallel_for(items_of(job.count, kPointsPerTile), [&](int tile) { k.network(job, tile); });
}

// Tiles are shared out in pieces that do not depend on the number of threads, and the pieces' sums are added up in order.
void network_backward(NetworkJob job, float* v_weights) {
  StageTimer timer(kNetworkBackward);
  const PaddedLayer padded(job);
  Buffer<float> room[4];
  job.w1_transposed = transposed(job.w1, job.width, job.inputs, room[0]);
  job.w2_transposed = transposed(job.w2, job.width, job.width, room[1]);
  job.w3_transposed = transposed(job.w3, job.padded_outputs, job.width, room[2]);
  const size_t hidden = size_t(job.width) * (job.inputs + 1) + size_t(job.width) * (job.width + 1);
  const size_t size = hidden + size_t(job.padded_outputs) * (job.width + 1);
  float* partial = room[3].reserve(kChunks * size);
  const Kernels& k = kernels();
  const int tiles = items_of(job.count, kPointsPerTile);
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

void mcmc_noise(int count, float* means, const float* quats, const float* log_scales, const float* opacity_logits,
                float strength, float sharpness, float threshold, uint64_t seed, uint64_t step) {
  StageTimer timer(kNoise);
  const NoiseConstants constants = noise_constants(strength, sharpness, threshold, seed, step);
  parallel_for(items_of(count, kRowsAtOnce), [&](int item) {
    const int end = std::min(count, (item + 1) * kRowsAtOnce);
    for (int i = item * kRowsAtOnce; i < end; ++i)
      explore(constants, unsigned(i), quats + 4 * size_t(i), log_scales + 3 * size_t(i), opacity_logits[i],
              means + 3 * size_t(i));
  });
}

}  // namespace nfc
