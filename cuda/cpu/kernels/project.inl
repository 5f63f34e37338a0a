// Projection of a vector of Gaussians at a time, forward and backward, and the colors (color.inl) of the visible ones.
#pragma once

#include "simd.h"
#include "adam.inl"
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

// What a vector of Gaussians is but for its color, with activated scales and opacities.
struct Geometry {
  Vec3<Vf> mean, scale;
  Vf quat[4], opacity;

  Geometry(const RenderJob& job, const Rows& rows) {
    Vf m[3], s[3];
    load_rows<3>(job.means, rows, m), load_rows<3>(job.scales, rows, s);
    load_rows<4>(job.quats, rows, quat), load_rows<1>(job.opacities, rows, &opacity);
    if (job.raw) {
      for (int j = 0; j < 3; ++j) s[j] = exponential(s[j]);
      opacity = sigmoid(opacity);
    }
    mean = {m[0], m[1], m[2]}, scale = {s[0], s[1], s[2]};
  }
};

inline void project_geometry(const RenderJob& job, const PinholeCamera& cam, int begin, int end) {
  const float left = float(cam.window.left), top = float(cam.window.top);
  for (int first = begin; first < end; first += kLanes) {
    Rows rows;
    rows.count = end - first < kLanes ? end - first : kLanes;
    for (int lane = 0; lane < kLanes; ++lane) rows.index[lane] = first + (lane < rows.count ? lane : 0);
    const Geometry g(job, rows);
    const Projection<Vf> o = project(cam, g.mean, g.quat, g.scale, job.antialiased);
    const Footprint<Vf> f = footprint(o, g.opacity);

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
  if (job.v_means2d) memset(job.v_means2d + 2 * i, 0, 2 * f);
  if (job.v_means2d_abs) memset(job.v_means2d_abs + 2 * i, 0, 2 * f);
  if (job.adam) return;
  memset(job.v_means + 3 * i, 0, 3 * f), memset(job.v_scales + 3 * i, 0, 3 * f), memset(job.v_quats + 4 * i, 0, 4 * f);
  job.v_opacities[i] = 0.0f;
  zero_color_gradient(job, i);
  if (job.v_features) memset(job.v_features + i * size_t(job.feature_channels), 0, size_t(job.feature_channels) * f);
}

// The sums that the rasterizer has made of each Gaussian of a vector, over all of its entries in their fixed order:
// moments, then channels. At most kAllMoments + kMaxChannels.
inline void sum_entries(const RenderJob& job, const Rows& rows, Vf* sums) {
  const int stride = job.moments() + job.channels, padded = (stride + kLanes - 1) / kLanes * kLanes;
  alignas(64) float totals[kLanes * (kAllMoments + kMaxChannels + kLanes)];
  Rows lanes;
  lanes.count = rows.count;
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes.index[lane] = lane < rows.count ? lane : 0;
    if (lane >= rows.count) continue;
    const uint32_t begin = job.entry_begin[rows[lane]], end = job.entry_begin[rows[lane] + 1];
    for (int j = 0; j < stride; j += kLanes) {  // the last vector reads what follows, for lanes that nobody looks at
      Vf total = Vf{};
      const float* row = job.partial + size_t(begin) * stride + j;
      for (uint32_t e = begin; e < end; ++e, row += stride) total = total + load(row);
      store(totals + lane * padded + j, total);
    }
  }
  load_columns(totals, size_t(padded), padded, lanes, sums);
}

// The gradient of a color before its clamp at zero.
inline void clamp_color_gradient(const RenderJob& job, const Rows& rows, Vf* v_color) {
  for (int c = 0; c < 3; ++c) {
    alignas(64) float color[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) color[lane] = job.colors[rows[lane] * size_t(job.channels) + c];
    v_color[c] = select(load(color) > Vf{}, v_color[c], minimum(v_color[c], Vf{}));
  }
}

// The gradients of a vector of Gaussians.
struct SplatGradients {
  Vf means[3], quats[4], scales[3], opacity;
};

inline void store_gradients(const RenderJob& job, const Rows& rows, const SplatGradients& v) {
  store_rows<3>(job.v_means, rows, v.means), store_rows<3>(job.v_scales, rows, v.scales);
  store_rows<4>(job.v_quats, rows, v.quats), store_rows<1>(job.v_opacities, rows, &v.opacity);
}

// Memory for the gradients of a vector's colors, for an optimizer that takes them at once.
struct ColorBuffer {
  alignas(64) float sh_coeffs[kLanes * 3 * kMaxBases];
  alignas(64) float bit_logits[kLanes * kColorBits], bit_shifts[kLanes * kColorBits * (kMaxBases - 1)];
};

inline void step_gaussians(const RenderJob& job, const Rows& rows, const Geometry& g, SplatGradients* v,
                           const ColorBuffer& colors) {
  const SplatAdam& adam = *job.adam;
  v->opacity = v->opacity + adam.opacity_weight * (g.opacity * (1.0f - g.opacity));
  v->scales[0] = v->scales[0] + adam.scale_weight * g.scale.x;
  v->scales[1] = v->scales[1] + adam.scale_weight * g.scale.y;
  v->scales[2] = v->scales[2] + adam.scale_weight * g.scale.z;
  adam_rows<3>(adam.means, rows, v->means), adam_rows<3>(adam.log_scales, rows, v->scales);
  adam_rows<4>(adam.quats, rows, v->quats), adam_rows<1>(adam.opacity_logits, rows, &v->opacity);
  if (job.sh_coeffs) adam_rows(adam.sh_coeffs, rows, colors.sh_coeffs);
  if (!job.bit_logits) return;
  adam_rows(adam.bit_logits, rows, colors.bit_logits);
  if (adam.bit_shifts.columns) adam_rows(adam.bit_shifts, rows, colors.bit_shifts);
}

// The gradient of the view matrix, summed over a block of Gaussians.
struct CameraSums {
  Vf R[9] = {}, t[3] = {}, center[3] = {};

  void add(Mask used, const ProjectionGrad<Vf>& g) {
    const Vf to_t[3] = {g.t.x, g.t.y, g.t.z};
    for (int j = 0; j < 9; ++j) R[j] = R[j] + select(used, g.R[j], Vf{});
    for (int j = 0; j < 3; ++j) t[j] = t[j] + select(used, to_t[j], Vf{});
  }

  void add_direction(Mask used, const Vec3<Vf>& v) {
    const Vf to_center[3] = {v.x, v.y, v.z};
    for (int j = 0; j < 3; ++j) center[j] = center[j] - select(used, to_center[j], Vf{});
  }

  void write(const PinholeCamera& cam, float* out) const {
    float v_center[3];
    for (int j = 0; j < 3; ++j) v_center[j] = sum_lanes(center[j]);
    for (int i = 0; i < 3; ++i) {  // center = -R^T t
      out[4 * i + 3] = sum_lanes(t[i]);
      for (int j = 0; j < 3; ++j) {
        out[4 * i + j] = sum_lanes(R[3 * i + j]) - cam.t[i] * v_center[j];
        out[4 * i + 3] -= cam.R[3 * i + j] * v_center[j];
      }
    }
  }
};

// The lanes that hold a Gaussian.
inline Mask used_lanes(const Rows& rows) {
  alignas(64) float used[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) used[lane] = lane < rows.count ? 1.0f : 0.0f;
  return load(used) > Vf{};
}

// What the sums say of the projected means and the features, where it is asked for.
inline void store_facts(const RenderJob& job, const Rows& rows, const Vf* sums, const Vf* v_mean2d) {
  if (job.v_means2d) store_rows<2>(job.v_means2d, rows, v_mean2d);
  if (job.v_means2d_abs) store_rows<2>(job.v_means2d_abs, rows, sums + kPlainMoments);
  if (!job.v_features) return;
  const Vf* channels = sums + job.moments() + job.color_channels;
  for (int c = 0; c < job.feature_channels; ++c) {
    float lanes[kLanes];
    store(lanes, channels[c]);
    for (int lane = 0; lane < rows.count; ++lane)
      job.v_features[rows[lane] * size_t(job.feature_channels) + c] = lanes[lane];
  }
}

inline void project_vector_backward(const RenderJob& job, const PinholeCamera& cam, const Rows& rows,
                                    CameraSums* camera, ColorBuffer* buffer) {
  const Mask used = used_lanes(rows);
  Vf sums[kAllMoments + kMaxChannels + kLanes];
  sum_entries(job, rows, sums);
  const Geometry g(job, rows);
  const Projection<Vf> o = project(cam, g.mean, g.quat, g.scale, job.antialiased);
  // The moments of raster.inl: g = alpha v_alpha summed over pixels, with 1, dx, dy, dx^2, dx dy, dy^2.
  const Vf gx = sums[1], gy = sums[2];
  Vf v_opacity = sums[0] / (g.opacity * o.compensation);
  const Vf v_mean2d[2] = {o.conic_a * gx + o.conic_b * gy, o.conic_b * gx + o.conic_c * gy};
  const Vf v_depth = job.depth ? sums[job.moments() + job.channels - 1] : Vf{};
  ProjectionGrad<Vf> grad =
      project_vjp(cam, o, g.mean, g.scale, g.opacity, job.antialiased, v_mean2d[0], v_mean2d[1], -0.5f * sums[3],
                  -sums[4], -0.5f * sums[5], v_depth, &v_opacity);
  if (job.color_channels) {
    ColorGradients to = {job.v_sh_coeffs, job.v_bit_logits, job.v_bit_shifts, rows};
    if (job.adam) {
      to = {buffer->sh_coeffs, buffer->bit_logits, buffer->bit_shifts, rows};
      for (int lane = 0; lane < kLanes; ++lane) to.rows.index[lane] = lane < rows.count ? lane : 0;
    }
    Vf* const v_color = sums + job.moments();
    if (job.sh_coeffs) clamp_color_gradient(job, rows, v_color);
    const Vec3<Vf> v_dir = view_color_backward(job, view_direction(cam, g.mean), rows, v_color, to);
    grad.mean = {grad.mean.x + v_dir.x, grad.mean.y + v_dir.y, grad.mean.z + v_dir.z};
    camera->add_direction(used, v_dir);
  }
  camera->add(used, grad);
  store_facts(job, rows, sums, v_mean2d);
  SplatGradients v = {{grad.mean.x, grad.mean.y, grad.mean.z},
                      {grad.quat[0], grad.quat[1], grad.quat[2], grad.quat[3]},
                      {grad.scale.x, grad.scale.y, grad.scale.z},
                      v_opacity};
  if (job.raw) {
    v.scales[0] = v.scales[0] * g.scale.x, v.scales[1] = v.scales[1] * g.scale.y, v.scales[2] = v.scales[2] * g.scale.z;
    v.opacity = v.opacity * (g.opacity * (1.0f - g.opacity));
  }
  if (job.adam) {
    step_gaussians(job, rows, g, &v, *buffer);
  } else {
    store_gradients(job, rows, v);
  }
}

void project_backward(const RenderJob& job, int block) {
  const PinholeCamera cam = camera_of(job.camera);
  const int begin = block * kCameraBlock;
  const int end = begin + kCameraBlock < job.count ? begin + kCameraBlock : job.count;
  int list[kCameraBlock];
  const int count = list_visible(job, begin, end, list);
  for (int i = begin; i < end; ++i)
    if (job.radii[2 * size_t(i)] <= 0) zero_gradients(job, size_t(i));
  CameraSums camera;
  ColorBuffer buffer;
  for (int next = 0; next < count; next += kLanes)
    project_vector_backward(job, cam, rows_of(list + next, count - next), &camera, &buffer);
  camera.write(cam, job.camera_partial + 12 * size_t(block));
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
