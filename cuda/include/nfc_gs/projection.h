// Projection of a 3D Gaussian to a 2D one (EWA splatting, Zwicker et al. 2002; 3DGS, Kerbl et al. 2023, eq. 5), and
// its derivative. `v_x` is the gradient of the loss with respect to x.
#pragma once

#include "constants.h"
#include "numeric.h"

namespace nfc {
inline namespace NFC_ISA {

// Pixels of a picture: columns [left, right) of rows [top, bottom).
struct PixelBox {
  int left, top, right, bottom;
};

// A pinhole camera that draws a window of its picture, in pixels of the whole picture. R and t take world to camera
// coordinates (OpenCV axes); center = -R^T t.
struct PinholeCamera {
  float R[9], t[3], center[3];
  float fx, fy, cx, cy;
  PixelBox window;
  // The ray slopes x/z and y/z between which the projection is linearised.
  float slope_x_min, slope_x_max, slope_y_min, slope_y_max;
};

// width, height: of the whole picture.
NFC_HD PinholeCamera make_camera(const float* viewmat, const float* intrinsics, int width, int height,
                                 const PixelBox& window) {
  PinholeCamera c;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) c.R[3 * i + j] = viewmat[4 * i + j];
    c.t[i] = viewmat[4 * i + 3];
  }
  for (int j = 0; j < 3; ++j) c.center[j] = -(c.R[j] * c.t[0] + c.R[3 + j] * c.t[1] + c.R[6 + j] * c.t[2]);
  c.fx = intrinsics[0], c.fy = intrinsics[1], c.cx = intrinsics[2], c.cy = intrinsics[3];
  c.window = window;
  const float margin_x = NFC_FRUSTUM_MARGIN * 0.5f * float(width) / c.fx;
  const float margin_y = NFC_FRUSTUM_MARGIN * 0.5f * float(height) / c.fy;
  c.slope_x_min = -c.cx / c.fx - margin_x, c.slope_x_max = (float(width) - c.cx) / c.fx + margin_x;
  c.slope_y_min = -c.cy / c.fy - margin_y, c.slope_y_max = (float(height) - c.cy) / c.fy + margin_y;
  return c;
}

// What forward and backward projection share: the 2D covariance is A A^T with A = J W, W = R Rq diag(scales).
template <class F>
struct Projection {
  Vec3<F> p;                    // mean in camera coordinates
  F mean_x, mean_y;             // pixels
  F inv_z, slope_x, slope_y;    // slopes after clamping
  F quat[4], inv_norm;          // normalised quaternion, 1 / norm of the raw one
  F Rq[9];                      // rotation of the Gaussian
  Vec3<F> W[3];                 // rows: camera-frame principal axes times scales
  Vec3<F> A0, A1, normal;       // rows of A in pixels, and A0 x A1
  F xx, xy, yy, det;            // blurred covariance, its determinant
  F conic_a, conic_b, conic_c;  // its inverse
  F det_raw, compensation;      // determinant before the blur; Mip-Splatting's opacity factor (1 if unused)
};

template <class F>
NFC_HD void quat_to_matrix(const F* q, F* R) {
  const F w = q[0], x = q[1], y = q[2], z = q[3];
  R[0] = 1.0f - 2.0f * (y * y + z * z), R[1] = 2.0f * (x * y - w * z), R[2] = 2.0f * (x * z + w * y);
  R[3] = 2.0f * (x * y + w * z), R[4] = 1.0f - 2.0f * (x * x + z * z), R[5] = 2.0f * (y * z - w * x);
  R[6] = 2.0f * (x * z - w * y), R[7] = 2.0f * (y * z + w * x), R[8] = 1.0f - 2.0f * (x * x + y * y);
}

template <class F>
NFC_HD Projection<F> project(const PinholeCamera& cam, const Vec3<F>& mean, const F* raw_quat, const Vec3<F>& scale,
                             bool antialiased) {
  Projection<F> o;
  o.p.x = cam.R[0] * mean.x + cam.R[1] * mean.y + cam.R[2] * mean.z + cam.t[0];
  o.p.y = cam.R[3] * mean.x + cam.R[4] * mean.y + cam.R[5] * mean.z + cam.t[1];
  o.p.z = cam.R[6] * mean.x + cam.R[7] * mean.y + cam.R[8] * mean.z + cam.t[2];
  o.inv_z = 1.0f / o.p.z;
  const F raw_x = o.p.x * o.inv_z, raw_y = o.p.y * o.inv_z;
  o.mean_x = cam.fx * raw_x + cam.cx, o.mean_y = cam.fy * raw_y + cam.cy;
  o.slope_x = minimum(maximum(raw_x, F{} + cam.slope_x_min), F{} + cam.slope_x_max);
  o.slope_y = minimum(maximum(raw_y, F{} + cam.slope_y_min), F{} + cam.slope_y_max);

  const F norm2 =
      raw_quat[0] * raw_quat[0] + raw_quat[1] * raw_quat[1] + raw_quat[2] * raw_quat[2] + raw_quat[3] * raw_quat[3];
  o.inv_norm = 1.0f / square_root(norm2);
  for (int i = 0; i < 4; ++i) o.quat[i] = raw_quat[i] * o.inv_norm;
  quat_to_matrix(o.quat, o.Rq);

  for (int i = 0; i < 3; ++i) {
    const float r0 = cam.R[3 * i], r1 = cam.R[3 * i + 1], r2 = cam.R[3 * i + 2];
    o.W[i].x = (r0 * o.Rq[0] + r1 * o.Rq[3] + r2 * o.Rq[6]) * scale.x;
    o.W[i].y = (r0 * o.Rq[1] + r1 * o.Rq[4] + r2 * o.Rq[7]) * scale.y;
    o.W[i].z = (r0 * o.Rq[2] + r1 * o.Rq[5] + r2 * o.Rq[8]) * scale.z;
  }
  const F jx = cam.fx * o.inv_z, jy = cam.fy * o.inv_z;
  o.A0 = {jx * (o.W[0].x - o.slope_x * o.W[2].x), jx * (o.W[0].y - o.slope_x * o.W[2].y),
          jx * (o.W[0].z - o.slope_x * o.W[2].z)};
  o.A1 = {jy * (o.W[1].x - o.slope_y * o.W[2].x), jy * (o.W[1].y - o.slope_y * o.W[2].y),
          jy * (o.W[1].z - o.slope_y * o.W[2].z)};
  const F raw_xx = dot(o.A0, o.A0), raw_yy = dot(o.A1, o.A1);
  o.xy = dot(o.A0, o.A1);
  // det(A A^T) = |A0 x A1|^2 (Lagrange's identity): exact where the difference of products would cancel.
  o.normal = cross(o.A0, o.A1);
  o.det_raw = dot(o.normal, o.normal);
  o.det = o.det_raw + NFC_BLUR * (raw_xx + raw_yy) + NFC_BLUR * NFC_BLUR;
  o.xx = raw_xx + NFC_BLUR, o.yy = raw_yy + NFC_BLUR;
  const F inv_det = 1.0f / o.det;
  o.conic_a = o.yy * inv_det, o.conic_b = -o.xy * inv_det, o.conic_c = o.xx * inv_det;
  o.compensation = F{} + 1.0f;
  if (antialiased) o.compensation = square_root(maximum(o.det_raw * inv_det, F{} + 1e-12f));
  return o;
}

template <class F>
struct ProjectionGrad {
  Vec3<F> mean, scale;
  F quat[4];
  F R[9];  // of the view matrix
  Vec3<F> t;
};

// `opacity` is the model's opacity; v_opacity (in-out) comes in as the gradient of the compensated opacity and goes
// out as that of the model's.
template <class F>
NFC_HD ProjectionGrad<F> project_vjp(const PinholeCamera& cam, const Projection<F>& o, const Vec3<F>& mean,
                                     const Vec3<F>& scale, F opacity, bool antialiased, F v_mean_x, F v_mean_y, F v_a,
                                     F v_b, F v_c, F v_z, F* v_opacity) {
  ProjectionGrad<F> g;
  const F a = o.conic_a, b = o.conic_b, c = o.conic_c;
  // conic = cov^-1, so v_cov = -conic v_conic conic
  F v_xx = -(a * a * v_a + a * b * v_b + b * b * v_c);
  F v_xy = -(2.0f * a * b * v_a + (a * c + b * b) * v_b + 2.0f * b * c * v_c);
  F v_yy = -(b * b * v_a + b * c * v_b + c * c * v_c);
  F v_det_raw = F{};
  if (antialiased) {
    const F ratio = o.det_raw / o.det;
    const F v_comp = *v_opacity * opacity;
    const F v_ratio = select(ratio > F{} + 1e-12f, 0.5f * v_comp / o.compensation, F{});
    *v_opacity = *v_opacity * o.compensation;
    // det = det_raw + BLUR (raw_xx + raw_yy) + BLUR^2
    const F v_det = -v_ratio * ratio / o.det;
    v_det_raw = v_ratio / o.det + v_det;
    v_xx = v_xx + NFC_BLUR * v_det, v_yy = v_yy + NFC_BLUR * v_det;
  }
  Vec3<F> v_A0 = {2.0f * v_xx * o.A0.x + v_xy * o.A1.x, 2.0f * v_xx * o.A0.y + v_xy * o.A1.y,
                  2.0f * v_xx * o.A0.z + v_xy * o.A1.z};
  Vec3<F> v_A1 = {2.0f * v_yy * o.A1.x + v_xy * o.A0.x, 2.0f * v_yy * o.A1.y + v_xy * o.A0.y,
                  2.0f * v_yy * o.A1.z + v_xy * o.A0.z};
  if (antialiased) {  // through |A0 x A1|^2
    const Vec3<F> to_A0 = cross(o.A1, o.normal), to_A1 = cross(o.normal, o.A0);
    const F k = 2.0f * v_det_raw;
    v_A0 = {v_A0.x + k * to_A0.x, v_A0.y + k * to_A0.y, v_A0.z + k * to_A0.z};
    v_A1 = {v_A1.x + k * to_A1.x, v_A1.y + k * to_A1.y, v_A1.z + k * to_A1.z};
  }

  const F jx = cam.fx * o.inv_z, jy = cam.fy * o.inv_z;
  const F v_slope_x = -jx * dot(v_A0, o.W[2]), v_slope_y = -jy * dot(v_A1, o.W[2]);
  // A0 and A1 are proportional to 1/z
  F v_pz = v_z - o.inv_z * (dot(v_A0, o.A0) + dot(v_A1, o.A1));
  const F raw_x = o.p.x * o.inv_z, raw_y = o.p.y * o.inv_z;
  const F v_raw_x = cam.fx * v_mean_x + select(raw_x == o.slope_x, v_slope_x, F{});
  const F v_raw_y = cam.fy * v_mean_y + select(raw_y == o.slope_y, v_slope_y, F{});
  const F v_px = v_raw_x * o.inv_z, v_py = v_raw_y * o.inv_z;
  v_pz = v_pz - o.inv_z * (v_raw_x * raw_x + v_raw_y * raw_y);

  g.t = {v_px, v_py, v_pz};
  g.mean = {cam.R[0] * v_px + cam.R[3] * v_py + cam.R[6] * v_pz, cam.R[1] * v_px + cam.R[4] * v_py + cam.R[7] * v_pz,
            cam.R[2] * v_px + cam.R[5] * v_py + cam.R[8] * v_pz};

  // v_W, rows of the camera-frame axes
  const Vec3<F> v_W0 = {jx * v_A0.x, jx * v_A0.y, jx * v_A0.z};
  const Vec3<F> v_W1 = {jy * v_A1.x, jy * v_A1.y, jy * v_A1.z};
  const Vec3<F> v_W2 = {-o.slope_x * v_W0.x - o.slope_y * v_W1.x, -o.slope_x * v_W0.y - o.slope_y * v_W1.y,
                        -o.slope_x * v_W0.z - o.slope_y * v_W1.z};
  const Vec3<F> v_W[3] = {v_W0, v_W1, v_W2};
  const Vec3<F> p_grad = g.t;
  const F v_p[3] = {p_grad.x, p_grad.y, p_grad.z};
  // M = Rq diag(scale); W = R M
  F v_M[9];
  for (int j = 0; j < 3; ++j) {
    const float r0 = cam.R[j], r1 = cam.R[3 + j], r2 = cam.R[6 + j];
    v_M[3 * j] = r0 * v_W0.x + r1 * v_W1.x + r2 * v_W2.x;
    v_M[3 * j + 1] = r0 * v_W0.y + r1 * v_W1.y + r2 * v_W2.y;
    v_M[3 * j + 2] = r0 * v_W0.z + r1 * v_W1.z + r2 * v_W2.z;
  }
  for (int i = 0; i < 3; ++i) {
    const F wx = v_W[i].x * scale.x, wy = v_W[i].y * scale.y, wz = v_W[i].z * scale.z;
    g.R[3 * i] = wx * o.Rq[0] + wy * o.Rq[1] + wz * o.Rq[2] + v_p[i] * mean.x;
    g.R[3 * i + 1] = wx * o.Rq[3] + wy * o.Rq[4] + wz * o.Rq[5] + v_p[i] * mean.y;
    g.R[3 * i + 2] = wx * o.Rq[6] + wy * o.Rq[7] + wz * o.Rq[8] + v_p[i] * mean.z;
  }
  g.scale = {v_M[0] * o.Rq[0] + v_M[3] * o.Rq[3] + v_M[6] * o.Rq[6],
             v_M[1] * o.Rq[1] + v_M[4] * o.Rq[4] + v_M[7] * o.Rq[7],
             v_M[2] * o.Rq[2] + v_M[5] * o.Rq[5] + v_M[8] * o.Rq[8]};
  F v[9];  // of Rq
  for (int i = 0; i < 3; ++i) {
    v[3 * i] = v_M[3 * i] * scale.x, v[3 * i + 1] = v_M[3 * i + 1] * scale.y, v[3 * i + 2] = v_M[3 * i + 2] * scale.z;
  }
  const F w = o.quat[0], x = o.quat[1], y = o.quat[2], z = o.quat[3];
  const F vw = 2.0f * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1]));
  const F vx = 2.0f * (w * (v[7] - v[5]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) - 2.0f * x * (v[4] + v[8]));
  const F vy = 2.0f * (w * (v[2] - v[6]) + x * (v[1] + v[3]) + z * (v[5] + v[7]) - 2.0f * y * (v[0] + v[8]));
  const F vz = 2.0f * (w * (v[3] - v[1]) + x * (v[2] + v[6]) + y * (v[5] + v[7]) - 2.0f * z * (v[0] + v[4]));
  const F along = w * vw + x * vx + y * vy + z * vz;  // the norm of the raw quaternion has no effect
  g.quat[0] = (vw - w * along) * o.inv_norm, g.quat[1] = (vx - x * along) * o.inv_norm;
  g.quat[2] = (vy - y * along) * o.inv_norm, g.quat[3] = (vz - z * along) * o.inv_norm;
  return g;
}

}  // namespace NFC_ISA
}  // namespace nfc
