// One rendering on the CPU, forward and backward, and the other fused passes of a training step.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "kernels.h"

namespace nfc {

// Memory whose contents are not initialised and which only grows.
template <class T>
class Buffer {
 public:
  T* reserve(size_t count) {
    if (count > capacity_) {
      const size_t wanted = count + count / 4 + 64;
      data_.reset(static_cast<T*>(::operator new(wanted * sizeof(T), std::align_val_t(64))));
      capacity_ = wanted;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

constexpr int kChunks = 32;  // pieces that the list of visible Gaussians is cut into, whatever the thread count

// Everything a forward rendering keeps for its backward; reused from step to step so that no memory is asked for.
class Frame {
 public:
  // Renders `job` (inputs and results set by the caller).
  void forward(RenderJob& job);
  // Gradients of the last forward; `job` as it was then, with the gradient pointers set.
  // v_viewmat: [16] or null. v_background: [channels] or null.
  void backward(RenderJob& job, float* v_viewmat, float* v_background);

  // Of the last forward: the number of (Gaussian, tile) pairs, and of pixel-Gaussian pairs that the rasterizer looked
  // at (rows of 16 pixels that a splat can reach, until the tile was opaque).
  size_t entries() const { return entries_; }
  size_t evaluated_pairs() const;

 private:
  void attach(RenderJob& job);
  void bin(const RenderJob& job);

  size_t entries_ = 0;
  int tiles_x_ = 0, tiles_ = 0;
  Buffer<SplatRecord> records_;
  Buffer<float> colors_, partial_, tile_background_, camera_partial_;
  Buffer<uint32_t> tile_begin_, tile_used_, splat_rank_, entry_begin_;
  Buffer<TileEntry> tile_entries_;
  Buffer<uint32_t> keys_, order_, spare_keys_, spare_order_, histogram_;
  Buffer<uint32_t> chunk_tiles_[kChunks];
  size_t chunk_size_[kChunks] = {};
};

struct LossValues {
  double l1, dssim, mse, ce;  // ce: 0 if its weight is 0
};

// Fused L1, squared error, SSIM and cross entropy; fills job.gradient if set. `job`'s scratch pointers are set
// here.
LossValues photometric_loss(LossJob& job);

// Bit-wise cross entropy; fills job.gradient if set. `job`'s scratch pointer is set here.
double bit_loss(BitLossJob& job);

// Fused Adam over visible rows.
void adam_step(const AdamJob& job);

// Features of points in the planes of a HexPlane. `job`'s order is set here, in both directions.
void hexplane(HexPlaneJob& job);

// Its gradients, written to v_planes and v_coords. `job`'s scratch pointers are set here.
void hexplane_backward(HexPlaneJob& job);

// Adds the gradient of a plane's regularisers to v_plane.
void plane_regularisers(const PlaneJob& job);

// A network of two hidden layers; `job` as the caller has it, w3 without padding.
void network(NetworkJob job);

// Its gradients: v_x of `job`, and v_weights in the order of w1, b1, w2, b2, w3, b3, without padding.
void network_backward(NetworkJob job, float* v_weights);

// Adds MCMC's exploration noise (Kheradmand et al. 2024, eq. 8) to the means: a function
// of the arguments and the row alone.
void mcmc_noise(int count, float* means, const float* quats, const float* log_scales, const float* opacity_logits,
                float strength, float sharpness, float threshold, uint64_t seed, uint64_t step);

// Seconds spent in each stage since the program began, by all callers together (for tools/bench.py).
enum Stage { kProject, kBin, kRaster, kRasterBackward, kProjectBackward, kLoss, kAdam, kNoise, kHexPlane, kHexPlaneBackward, kNetwork, kNetworkBackward, kStages };
extern const char* const kStageNames[kStages];
double stage_seconds(Stage stage);

// The kernels in use, and choosing others by name (false if this machine cannot run them).
const Kernels& kernels();
bool use_kernels(const char* name);

}  // namespace nfc
