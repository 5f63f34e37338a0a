// Projection of a vector of Gaussians at a time, forward and backward, and the colors (color.inl) of the visible ones.
#pragma once

#include "simd.h"
#include "color.inl"
#include "rows.inl"
#include "jobs.h"
#include "../../include/nfc_gs/footprint.h"
#include "../../include/nfc_gs/projection.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

inline PinholeCamera camera_of(const CameraArgs& c) {
  const PixelBox window = {c.left, c.top, c.left + c.width, c.top + c.height};
  return make_camera(c.viewmat, c.intrinsics, c.whole_width, c.whole_height, window);
}

inline void project_geometry(const RenderJob& job, const PinholeCamera& cam, int begin, int end) {
  const float left = float(cam.window.left), top = float(cam.window.top);
  for (int first = begin; first < end; first += kLanes) {
    Rows rows;
    rows.count = end - first < kLanes ? end - first : kLanes;
    for (int lane = 0; lane < kLanes; ++lane) rows.index[lane] = first + (lane < rows.count ? lane : 0);
    Vf m[3], s[3], q[4], opacity;
    load_rows<3>(job.means, rows, m), load_rows<3>(job.scales, rows, s);
    load_rows<4>(job.quats, rows, q), load_rows<1>(job.opacities, rows, &opacity);
    const Vec3<Vf> mean = {m[0], m[1], m[2]}, scale = {s[0], s[1], s[2]};
    const Projection<Vf> o = project(cam, mean, q, scale, job.antialiased);
    const Footprint<Vf> f = footprint(o, opacity);

    for (int lane = 0; lane < rows.count; ++lane) {
      const size_t i = rows[lane];
      const Footprint<float> at = {f.mean_x[lane],   f.mean_y[lane],  f.depth[lane],   f.alpha[lane], f.log2_alpha[lane],
                                   f.extent_x[lane], f.extent_y[lane], f.p[lane],      f.q[lane],     f.r[lane],
                                   f.conic_a[lane],  f.conic_b[lane],  f.conic_c[lane]};
      if (!is_visible(at, cam.window)) {
        job.radii[2 * i] = job.radii[2 * i + 1] = 0;
        job.means2d[2 * i] = job.means2d[2 * i + 1] = 0.0f;
        continue;
      }
      job.records[i] = record_of(at, cam.window);
      job.radii[2 * i] = radius_of(at.extent_x), job.radii[2 * i + 1] = radius_of(at.extent_y);
      job.means2d[2 * i] = at.mean_x - left, job.means2d[2 * i + 1] = at.mean_y - top;
      float* channels = job.colors + i * size_t(job.channels) + job.color_channels;
      for (int c = 0; c < job.feature_channels; ++c) *channels++ = job.features[i * size_t(job.feature_channels) + c];
      if (job.depth) *channels = at.depth;
    }
  }
}

// Lists the visible Gaussians of [begin, end); returns their number.
inline int list_visible(const RenderJob& job, int begin, int end, int* list) {
  int count = 0;
  for (int i = begin; i < end; ++i)
    if (job.radii[2 * size_t(i)] > 0) list[count++] = i;
  return count;
}

inline void color_visible(const RenderJob& job, const PinholeCamera& cam, const int* list, int count) {
  for (int next = 0; next < count; next += kLanes) {
    const Rows rows = rows_of(list + next, count - next);
    Vf m[3], color[kColorBits];
    load_rows<3>(job.means, rows, m);
    view_color(job, view_direction(cam, {m[0], m[1], m[2]}), rows, color);
    for (int lane = 0; lane < rows.count; ++lane) {
      float* channels = job.colors + rows[lane] * size_t(job.channels);
      for (int c = 0; c < job.color_channels; ++c) {
        const float value = color[c][lane];
        channels[c] = job.sh_coeffs && !(value > 0.0f) ? 0.0f : value;
      }
    }
  }
}

void project(const RenderJob& job, int begin, int end) {
  const PinholeCamera cam = camera_of(job.camera);
  int visible[kCameraBlock];
  for (int first = begin; first < end; first += kCameraBlock) {
    const int last = first + kCameraBlock < end ? first + kCameraBlock : end;
    project_geometry(job, cam, first, last);
    if (job.color_channels) color_visible(job, cam, visible, list_visible(job, first, last, visible));
  }
}

inline void zero_gradients(const RenderJob& job, size_t i) {
  const size_t f = sizeof(float);
  memset(job.v_means + 3 * i, 0, 3 * f), memset(job.v_scales + 3 * i, 0, 3 * f), memset(job.v_quats + 4 * i, 0, 4 * f);
  job.v_opacities[i] = 0.0f;
  memset(job.v_means2d + 2 * i, 0, 2 * f);
  if (job.v_means2d_abs) memset(job.v_means2d_abs + 2 * i, 0, 2 * f);
  zero_color_gradient(job, i);
  if (job.v_features) memset(job.v_features + i * size_t(job.feature_channels), 0, size_t(job.feature_channels) * f);
}

// Adds up the entries of a Gaussian, in their fixed order.
inline void sum_entries(const RenderJob& job, size_t i, float* sums) {
  const int stride = kMoments + job.channels;
  for (int j = 0; j < stride; ++j) sums[j] = 0.0f;
  const uint32_t rank = job.splat_rank[i];
  const float* row = job.partial + size_t(job.entry_begin[rank]) * stride;
  for (uint32_t e = job.entry_begin[rank]; e < job.entry_begin[rank + 1]; ++e, row += stride)
    for (int j = 0; j < stride; ++j) sums[j] += row[j];
}

void project_backward(const RenderJob& job, int block) {
  const PinholeCamera cam = camera_of(job.camera);
  const int begin = block * kCameraBlock;
  const int end = begin + kCameraBlock < job.count ? begin + kCameraBlock : job.count;
  Vf sum_R[9] = {}, sum_t[3] = {}, sum_center[3] = {};
  int list[kCameraBlock];
  const int count = list_visible(job, begin, end, list);
  for (int i = begin; i < end; ++i)
    if (job.radii[2 * size_t(i)] <= 0) zero_gradients(job, size_t(i));
  for (int next = 0; next < count; next += kLanes) {
    const Rows rows = rows_of(list + next, count - next);
    alignas(64) float sums[kMoments + kMaxChannels][kLanes], used_lane[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      used_lane[lane] = lane < rows.count ? 1.0f : 0.0f;
      float total[kMoments + kMaxChannels];
      if (lane < rows.count) sum_entries(job, rows[lane], total);
      if (job.sh_coeffs && lane < rows.count) {
        const float* colors = job.colors + rows[lane] * size_t(job.channels);
        for (int c = 0; c < 3; ++c) total[kMoments + c] = one_sided_clamp_vjp(colors[c], total[kMoments + c]);
      }
      for (int j = 0; j < kMoments + job.channels; ++j) sums[j][lane] = lane < rows.count ? total[j] : 0.0f;
    }
    const Mask used = load(used_lane) > Vf{};
    Vf m[3], s[3], q[4], opacity;
    load_rows<3>(job.means, rows, m), load_rows<3>(job.scales, rows, s);
    load_rows<4>(job.quats, rows, q), load_rows<1>(job.opacities, rows, &opacity);
    const Vec3<Vf> mean = {m[0], m[1], m[2]}, scale = {s[0], s[1], s[2]};
    const Projection<Vf> o = project(cam, mean, q, scale, job.antialiased);
    // The moments of raster.inl: g = alpha v_alpha summed over pixels, with 1, dx, dy, dx^2, dx dy, dy^2.
    const Vf g0 = load(sums[0]), gx = load(sums[1]), gy = load(sums[2]);
    Vf v_opacity = g0 / (opacity * o.compensation);
    const Vf v_mean_x = o.conic_a * gx + o.conic_b * gy, v_mean_y = o.conic_b * gx + o.conic_c * gy;
    Vf v_depth = Vf{};
    if (job.depth) v_depth = load(sums[kMoments + job.channels - 1]);
    ProjectionGrad<Vf> grad =
        project_vjp(cam, o, mean, scale, opacity, job.antialiased, v_mean_x, v_mean_y, -0.5f * load(sums[3]),
                    -load(sums[4]), -0.5f * load(sums[5]), v_depth, &v_opacity);
    if (job.color_channels) {
      Vf v_color[kColorBits];
      for (int c = 0; c < job.color_channels; ++c) v_color[c] = load(sums[kMoments + c]);
      const Vec3<Vf> v_dir = view_color_backward(job, view_direction(cam, mean), rows, v_color);
      grad.mean = {grad.mean.x + v_dir.x, grad.mean.y + v_dir.y, grad.mean.z + v_dir.z};
      const Vf v_center[3] = {v_dir.x, v_dir.y, v_dir.z};
      for (int j = 0; j < 3; ++j) sum_center[j] = sum_center[j] - select(used, v_center[j], Vf{});
    }
    const Vf t[3] = {grad.t.x, grad.t.y, grad.t.z};
    for (int j = 0; j < 9; ++j) sum_R[j] = sum_R[j] + select(used, grad.R[j], Vf{});
    for (int j = 0; j < 3; ++j) sum_t[j] = sum_t[j] + select(used, t[j], Vf{});

    const Vf v_mean[3] = {grad.mean.x, grad.mean.y, grad.mean.z};
    const Vf v_scale[3] = {grad.scale.x, grad.scale.y, grad.scale.z};
    const Vf v_mean2d[2] = {v_mean_x, v_mean_y};
    store_rows<3>(job.v_means, rows, v_mean), store_rows<3>(job.v_scales, rows, v_scale);
    store_rows<4>(job.v_quats, rows, grad.quat), store_rows<1>(job.v_opacities, rows, &v_opacity);
    store_rows<2>(job.v_means2d, rows, v_mean2d);
    if (job.v_means2d_abs) {
      const Vf v_abs[2] = {load(sums[6]), load(sums[7])};
      store_rows<2>(job.v_means2d_abs, rows, v_abs);
    }
    if (job.v_features) {
      const int offset = kMoments + job.color_channels;
      for (int lane = 0; lane < rows.count; ++lane)
        for (int c = 0; c < job.feature_channels; ++c)
          job.v_features[rows[lane] * size_t(job.feature_channels) + c] = sums[offset + c][lane];
    }
  }
  float* out = job.camera_partial + 12 * size_t(block);
  float v_center[3];
  for (int j = 0; j < 3; ++j) v_center[j] = sum_lanes(sum_center[j]);
  for (int i = 0; i < 3; ++i) {  // center = -R^T t
    out[4 * i + 3] = sum_lanes(sum_t[i]);
    for (int j = 0; j < 3; ++j) {
      out[4 * i + j] = sum_lanes(sum_R[3 * i + j]) - cam.t[i] * v_center[j];
      out[4 * i + 3] -= cam.R[3 * i + j] * v_center[j];
    }
  }
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
