// Activations, projection, culling, colors and the count of tiles in one kernel, and its derivative: one thread per
// Gaussian. What one thread reads lies together, so a warp uses whole sectors; nothing is read twice, and of a
// culled Gaussian only 44 bytes and no color.

#include "../include/nfc_gs/footprint.h"
#include "../include/nfc_gs/projection.h"
#include "../include/nfc_gs/tiles.h"
#include "color.h"
#include "render.h"

namespace nfc {

constexpr int kThreads = 128;
constexpr int kBitBlocks = 3;  // on a multiprocessor, of those that move bits: NVRTC's own choice spills for sm_100
constexpr int kThreadEntries = 256;  // entries that one thread adds up; where there are more, its warp does

struct Gaussian {
  Vec3<float> mean, scale;
  float quat[4], opacity;
};

// Two branches take fewer registers than a choice of pointers.
NFC_HD Gaussian load_gaussian(const RenderArgs& args, size_t i) {
  const float *m = args.means + 3 * i, *q = args.quats + 4 * i;
  Gaussian g = {{m[0], m[1], m[2]}, {0.0f, 0.0f, 0.0f}, {q[0], q[1], q[2], q[3]}, 0.0f};
  if (args.log_scales) {
    const float* s = args.log_scales + 3 * i;
    g.scale = {expf(s[0]), expf(s[1]), expf(s[2])}, g.opacity = sigmoid(args.opacity_logits[i]);
  } else {
    const float* s = args.scales + 3 * i;
    g.scale = {s[0], s[1], s[2]}, g.opacity = args.opacities[i];
  }
  return g;
}

NFC_HD void zero(float* values, int count) {
  for (int j = 0; j < count; ++j) values[j] = 0.0f;
}

// A warp writes zeros into some rows of an array, each row as a whole: bit j of `rows` stands for row first + j.
NFC_HD void zero_rows(float* values, int columns, int first, unsigned rows) {
  for (; rows; rows &= rows - 1) {
    float* row = values + size_t(first + __ffs(int(rows)) - 1) * columns;
    for (int j = threadIdx.x % kWarp; j < columns; j += kWarp) row[j] = 0.0f;
  }
}

// The gradients of Gaussians that are not visible; of those of this warp from `first` on, `rows` are not.
NFC_HD void zero_gradients(const StoredGradients& to, int first, unsigned rows) {
  const RenderArgs& args = to.args;
  const int lane = threadIdx.x % kWarp;
  if (rows >> lane & 1) {
    const size_t i = size_t(first) + lane;
    zero(to.means(i), 3), zero(to.scales(i), 3), zero(to.quats(i), 4), zero(to.opacities(i), 1);
    zero(args.v_means2d + 2 * i, 2);
    if (args.absgrad) zero(args.v_means2d_abs + 2 * i, 2);
  }
  if (args.sh_coeffs) zero_rows(args.v_sh_coeffs, 3 * args.sh_bases, first, rows);
  if (args.bit_logits) {
    zero_rows(args.v_bit_logits, kColorBits, first, rows);
    zero_rows(args.v_bit_shifts, args.shift_columns * (args.sh_bases - 1), first, rows);
  }
  if (args.features) zero_rows(args.v_features, args.feature_channels, first, rows);
}

// Adam leaves these Gaussians as they are.
template <class Kept>
NFC_HD void zero_gradients(const AdamGradients<Kept>& to, int first, unsigned rows) {
  const int lane = threadIdx.x % kWarp;
  if (to.args.absgrad && (rows >> lane & 1)) zero(to.args.v_means2d_abs + 2 * (size_t(first) + lane), 2);
}

// A warp adds up the entries of Gaussian i, in a fixed order, into the first of them: a splat over the whole image has
// thousands.
NFC_HD void sum_entries(const RenderArgs& args, int i) {
  const int stride = kMoments + args.channels, terms = args.touched[i], lane = threadIdx.x % kWarp;
  float* first = args.partial + size_t(args.entry_begin[i]) * stride;
  constexpr int kAtOnce = 8;  // of the numbers of an entry
  for (int begin = 0; begin < stride; begin += kAtOnce) {
    float sums[kAtOnce] = {};
    for (int e = lane; e < terms; e += kWarp)
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        if (begin + j < stride) sums[j] += first[size_t(e) * stride + begin + j];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      for (int step = kWarp / 2; step > 0; step /= 2) sums[j] += __shfl_xor_sync(kAllLanes, sums[j], step);
      if (lane == 0 && begin + j < stride) first[begin + j] = sums[j];  // which no other lane reads here
    }
  }
}

// Adds up the `terms` entries of Gaussian i in their fixed order, and passes on the gradients of its parameters;
// v_camera gets its part of the camera's gradient: R (9), t (3) and the centre (3).
template <bool kBitColors, bool kAntialiased, class To>
NFC_HD void gaussian_backward(const RenderArgs& args, const PinholeCamera& cam, size_t i, int terms, const To& to,
                              float* v_camera) {
  const int stride = kMoments + args.channels;
  const float* partial = args.partial + size_t(args.entry_begin[i]) * stride;
  Vec3<float> v_center = {0.0f, 0.0f, 0.0f};  // minus the gradient of the camera's centre
  if (args.color_channels) {
    const float* m = args.means + 3 * i;
    v_center =
        view_color_backward<kBitColors>(args, cam, {m[0], m[1], m[2]}, i, partial + kMoments, stride, terms, to);
  }
  v_camera[12] = -v_center.x, v_camera[13] = -v_center.y, v_camera[14] = -v_center.z;

  float sums[kMoments] = {};
  for (int e = 0; e < terms; ++e)
#pragma unroll
    for (int j = 0; j < kMoments; ++j) sums[j] += partial[size_t(e) * stride + j];

  const Gaussian g = load_gaussian(args, i);
  const Projection<float> o = project(cam, g.mean, g.quat, g.scale, kAntialiased);
  // The moments of raster.cu: alpha v_alpha summed over pixels, with 1, dx, dy, dx^2, dx dy, dy^2.
  float v_opacity = sums[0] / (g.opacity * o.compensation);
  const float v_mean_x = o.conic_a * sums[1] + o.conic_b * sums[2];
  const float v_mean_y = o.conic_b * sums[1] + o.conic_c * sums[2];
  const float v_depth = args.depth ? sum_terms(partial + stride - 1, stride, terms) : 0.0f;
  ProjectionGrad<float> grad = project_vjp(cam, o, g.mean, g.scale, g.opacity, kAntialiased, v_mean_x,
                                           v_mean_y, -0.5f * sums[3], -sums[4], -0.5f * sums[5], v_depth, &v_opacity);
  grad.mean = {grad.mean.x + v_center.x, grad.mean.y + v_center.y, grad.mean.z + v_center.z};
#pragma unroll
  for (int j = 0; j < 9; ++j) v_camera[j] = grad.R[j];
  v_camera[9] = grad.t.x, v_camera[10] = grad.t.y, v_camera[11] = grad.t.z;

  if (args.log_scales) {  // through exp and sigmoid
    grad.scale = {grad.scale.x * g.scale.x, grad.scale.y * g.scale.y, grad.scale.z * g.scale.z};
    v_opacity *= g.opacity * (1.0f - g.opacity);
  }
  if (To::kAdam) {
    v_opacity += args.adam.opacity_weight * (g.opacity * (1.0f - g.opacity));
    const float weight = args.adam.scale_weight;
    grad.scale.x += weight * g.scale.x, grad.scale.y += weight * g.scale.y, grad.scale.z += weight * g.scale.z;
  }
  const auto v_mean = to.means(i), v_scale = to.scales(i), v_quat = to.quats(i);
  v_mean[0] = grad.mean.x, v_mean[1] = grad.mean.y, v_mean[2] = grad.mean.z;
  v_scale[0] = grad.scale.x, v_scale[1] = grad.scale.y, v_scale[2] = grad.scale.z;
#pragma unroll
  for (int j = 0; j < 4; ++j) v_quat[j] = grad.quat[j];
  to.opacities(i)[0] = v_opacity;
  if (!To::kAdam) args.v_means2d[2 * i] = v_mean_x, args.v_means2d[2 * i + 1] = v_mean_y;
  if (args.absgrad) args.v_means2d_abs[2 * i] = sums[6], args.v_means2d_abs[2 * i + 1] = sums[7];
  for (int c = 0; c < args.feature_channels; ++c)
    args.v_features[i * size_t(args.feature_channels) + c] =
        sum_terms(partial + kMoments + args.color_channels + c, stride, terms);
}

}  // namespace nfc

NFC_KERNEL(project_splats, nfc::RenderArgs, nfc::kThreads) {
  using namespace nfc;
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size_t(args.count)) return;
  const PinholeCamera cam = camera_of(args);
  const Gaussian g = load_gaussian(args, i);
  const Footprint<float> f =
      footprint(nfc::project(cam, g.mean, g.quat, g.scale, args.antialiased != 0), g.opacity);
  if (!is_visible(f, cam.window)) {
    args.radii[2 * i] = args.radii[2 * i + 1] = args.touched[i] = 0;
    args.means2d[2 * i] = args.means2d[2 * i + 1] = 0.0f;
    args.depths[i] = __int_as_float(0x7f800000);
    return;
  }
  const SplatRecord record = record_of(f, cam.window);
  args.records[i] = record;
  args.radii[2 * i] = radius_of(f.extent_x), args.radii[2 * i + 1] = radius_of(f.extent_y);
  args.means2d[2 * i] = f.mean_x - float(args.left), args.means2d[2 * i + 1] = f.mean_y - float(args.top);
  args.depths[i] = f.depth;
  int touched = 0;
  for (TileRows rows(record); rows.next();) touched += max(rows.column_end - rows.column_begin, 0);
  args.touched[i] = touched;

  float* channels = args.colors + i * size_t(args.channels);
  if (args.color_channels) view_color(args, cam, g.mean, i, channels);
  channels += args.color_channels;
  for (int c = 0; c < args.feature_channels; ++c) *channels++ = args.features[i * size_t(args.feature_channels) + c];
  if (args.depth) *channels = f.depth;
}

namespace nfc {

constexpr int kCameraSums = 15;  // of R, t and the centre

// A block sums up the gradient of the camera, in a fixed order; torch does so over the blocks.
static NFC_HD void camera_backward(const RenderArgs& args, float* v_camera) {
  constexpr int kWarps = kThreads / kWarp;
  NFC_SHARED(float, warp_sums, kWarps * kCameraSums);
#pragma unroll
  for (int j = 0; j < kCameraSums; ++j) {
    for (int step = kWarp / 2; step > 0; step /= 2) v_camera[j] += __shfl_xor_sync(kAllLanes, v_camera[j], step);
    if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp * kCameraSums + j] = v_camera[j];
  }
  __syncthreads();
  if (threadIdx.x >= 3) return;
  float v[kCameraSums];
#pragma unroll
  for (int j = 0; j < kCameraSums; ++j) {
    v[j] = 0.0f;
    for (int warp = 0; warp < kWarps; ++warp) v[j] += warp_sums[warp * kCameraSums + j];
  }
  const int row = threadIdx.x;  // center = -R^T t
  float* out = args.camera_partial + size_t(blockIdx.x) * kCameraTerms + 4 * row;
  const float t = args.viewmat[4 * row + 3];
  float v_t = row == 0 ? v[9] : row == 1 ? v[10] : v[11];
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    const float v_R = row == 0 ? v[j] : row == 1 ? v[3 + j] : v[6 + j];
    out[j] = v_R - t * v[12 + j];
    v_t -= args.viewmat[4 * row + j] * v[12 + j];
  }
  out[3] = v_t;
}

// A thread per Gaussian; returns the visible ones of the warp.
template <bool kBitColors, bool kAntialiased, class To>
NFC_HD unsigned block_backward(const RenderArgs& args, const To& to) {
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  const PinholeCamera cam = camera_of(args);
  float v_camera[kCameraSums] = {};
  const bool exists = i < size_t(args.count), visible = exists && args.radii[2 * i] > 0;
  int terms = visible ? args.touched[i] : 0;
  const int first = int(i) - int(threadIdx.x % kWarp);
  for (unsigned many = __ballot_sync(kAllLanes, terms > kThreadEntries); many; many &= many - 1)
    sum_entries(args, first + __ffs(int(many)) - 1);
  __syncwarp();
  if (terms > kThreadEntries) terms = 1;
  zero_gradients(to, first, __ballot_sync(kAllLanes, exists && !visible));
  if (visible) gaussian_backward<kBitColors, kAntialiased>(args, cam, i, terms, to, v_camera);
  if (args.camera_partial) camera_backward(args, v_camera);
  return __ballot_sync(kAllLanes, visible);
}

template <bool kBitColors, bool kAntialiased>
NFC_HD void store_gradients(const RenderArgs& args) {
  block_backward<kBitColors, kAntialiased>(args, StoredGradients{args});
}

// The same with a step of Adam on the visible Gaussians, which are raw and have no features.
template <bool kAntialiased>
static NFC_HD void step_sh(const RenderArgs& args) {
  NFC_SHARED(float, kept, kThreads * kKeptHarmonics);
  const unsigned visible = block_backward<false, kAntialiased>(args, AdamGradients<decltype(kept)>{args, kept});
  __syncwarp();
  step_harmonics(args, int(blockIdx.x) * kThreads + int(threadIdx.x) / kWarp * kWarp, visible, kept);
}

template <bool kAntialiased>
NFC_HD void step_bits(const RenderArgs& args) {
  const int nothing = 0;
  block_backward<true, kAntialiased>(args, AdamGradients<const int>{args, nothing});
}

}  // namespace nfc

NFC_KERNEL(project_splats_backward, nfc::RenderArgs, nfc::kThreads) { nfc::store_gradients<false, false>(args); }

NFC_KERNEL(project_splats_backward_antialiased, nfc::RenderArgs, nfc::kThreads) {
  nfc::store_gradients<false, true>(args);
}

NFC_KERNEL(project_splats_backward_bits, nfc::RenderArgs, nfc::kThreads) { nfc::store_gradients<true, false>(args); }

NFC_KERNEL(project_splats_backward_bits_antialiased, nfc::RenderArgs, nfc::kThreads) {
  nfc::store_gradients<true, true>(args);
}

NFC_KERNEL(project_splats_backward_adam, nfc::RenderArgs, nfc::kThreads) { nfc::step_sh<false>(args); }

NFC_KERNEL(project_splats_backward_antialiased_adam, nfc::RenderArgs, nfc::kThreads) { nfc::step_sh<true>(args); }

NFC_KERNEL(project_splats_backward_bits_adam, nfc::RenderArgs, nfc::kThreads, nfc::kBitBlocks) {
  nfc::step_bits<false>(args);
}

NFC_KERNEL(project_splats_backward_bits_antialiased_adam, nfc::RenderArgs, nfc::kThreads, nfc::kBitBlocks) {
  nfc::step_bits<true>(args);
}
