// Projection of a vector of Gaussians at a time, with their colours (colour.inl), forward and backward.

// Reads `width` floats of kLanes consecutive rows into vectors, lanes beyond `count` repeat the first row.
template <int Width>
static inline void load_rows(const float* base, int count, Vf* out) {
  alignas(64) float columns[Width][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const float* row = base + Width * (lane < count ? lane : 0);
    for (int j = 0; j < Width; ++j) columns[j][lane] = row[j];
  }
  for (int j = 0; j < Width; ++j) out[j] = load(columns[j]);
}

template <int Width>
static inline void store_rows(float* base, int count, const Vf* values) {
  alignas(64) float columns[Width][kLanes];
  for (int j = 0; j < Width; ++j) store(columns[j], values[j]);
  for (int lane = 0; lane < count; ++lane)
    for (int j = 0; j < Width; ++j) base[Width * lane + j] = columns[j][lane];
}

static inline int clamp_int(float x, int low, int high) {
  return x <= float(low) ? low : x >= float(high) ? high : int(x);
}

static inline bool finite(float x) { return x - x == 0.0f; }

static void project(const RenderJob& job, int begin, int end) {
  const PinholeCamera cam = make_camera(job.camera.viewmat, job.camera.intrinsics, job.camera.width, job.camera.height);
  const float width = float(cam.width), height = float(cam.height);
  for (int first = begin; first < end; first += kLanes) {
    const int count = end - first < kLanes ? end - first : kLanes;
    Vf m[3], s[3], q[4];
    load_rows<3>(job.means + 3 * size_t(first), count, m);
    load_rows<3>(job.scales + 3 * size_t(first), count, s);
    load_rows<4>(job.quats + 4 * size_t(first), count, q);
    Vf opacity;
    load_rows<1>(job.opacities + first, count, &opacity);
    const Vec3<Vf> mean = {m[0], m[1], m[2]}, scale = {s[0], s[1], s[2]};
    const Projection<Vf> o = project(cam, mean, q, scale, job.antialiased);
    const Vf alpha = opacity * o.compensation;
    const Vf log2_alpha = log_2(alpha);
    // alpha >= ALPHA_MIN while sigma <= reach: the tight bound of the splat (and log(255 alpha) needs alpha >= 1/255)
    const Vf reach = 0.69314718f * log2_alpha + 5.5412635f;
    const Vf extent_x = square_root(2.0f * reach * o.xx), extent_y = square_root(2.0f * reach * o.yy);
    const float k = kExponentScale;
    const Vf root = square_root(o.yy);
    const Vf inv_root_det = 1.0f / square_root(o.det);
    const Vf p = k * root * inv_root_det, r = k / root, skew = -k * o.xy * inv_root_det / root;

    Vf colour[kColourBits];
    if (job.colour_channels) view_colour(job, view_direction(cam, mean), first, count, colour);
    for (int lane = 0; lane < count; ++lane) {
      const size_t i = size_t(first + lane);
      const float mx = o.mean_x[lane], my = o.mean_y[lane], ex = extent_x[lane], ey = extent_y[lane];
      const float depth = o.p.z[lane];
      // Written so that a NaN anywhere fails a comparison and the Gaussian is culled.
      const bool seen = depth >= NFC_NEAR_PLANE && finite(depth) && alpha[lane] >= NFC_ALPHA_MIN &&
                        finite(alpha[lane]) && finite(p[lane]) && p[lane] > 0.0f && finite(skew[lane]) &&
                        finite(r[lane]) && r[lane] > 0.0f && finite(o.conic_a[lane]) && finite(o.conic_b[lane]) &&
                        finite(o.conic_c[lane]) && finite(ex) && finite(ey) && mx + ex > 0.0f && mx - ex < width &&
                        my + ey > 0.0f && my - ey < height;
      if (!seen) {
        job.radii[2 * i] = job.radii[2 * i + 1] = 0;
        job.means2d[2 * i] = job.means2d[2 * i + 1] = 0.0f;
        continue;
      }
      // The slack keeps rounding from cutting off a pixel that passes the alpha test.
      const float slack = 0.01f, x = mx - 0.5f, y = my - 0.5f;
      job.records[i] = {mx,
                        my,
                        p[lane],
                        skew[lane],
                        r[lane],
                        log2_alpha[lane],
                        ex,
                        ey,
                        o.conic_a[lane],
                        o.conic_b[lane],
                        o.conic_c[lane],
                        depth,
                        clamp_int(ceilf(y - ey - slack), 0, cam.height),
                        clamp_int(floorf(y + ey + slack) + 1.0f, 0, cam.height),
                        clamp_int(ceilf(x - ex - slack), 0, cam.width),
                        clamp_int(floorf(x + ex + slack) + 1.0f, 0, cam.width)};
      const float limit = 1073741824.0f;
      const float rx = ceilf(ex), ry = ceilf(ey);
      job.radii[2 * i] = rx < 1.0f ? 1 : int32_t(rx < limit ? rx : limit);
      job.radii[2 * i + 1] = ry < 1.0f ? 1 : int32_t(ry < limit ? ry : limit);
      job.means2d[2 * i] = mx, job.means2d[2 * i + 1] = my;
      float* colors = job.colors + i * size_t(job.channels);
      for (int c = 0; c < job.colour_channels; ++c) {
        const float value = colour[c][lane];
        *colors++ = job.sh && !(value > 0.0f) ? 0.0f : value;
      }
      for (int c = 0; c < job.feature_channels; ++c) *colors++ = job.features[i * size_t(job.feature_channels) + c];
      if (job.depth) *colors = depth;
    }
  }
}

static inline void zero_gradients(const RenderJob& job, int first, int count) {
  const size_t i = size_t(first), n = size_t(count) * sizeof(float);
  memset(job.v_means + 3 * i, 0, 3 * n), memset(job.v_scales + 3 * i, 0, 3 * n);
  memset(job.v_quats + 4 * i, 0, 4 * n), memset(job.v_opacities + i, 0, n);
  memset(job.v_means2d + 2 * i, 0, 2 * n);
  if (job.v_means2d_abs) memset(job.v_means2d_abs + 2 * i, 0, 2 * n);
  zero_colour_gradients(job, first, count);
  if (job.v_features) memset(job.v_features + i * size_t(job.feature_channels), 0, n * size_t(job.feature_channels));
}

// Adds up what a Gaussian collected from its tiles, in the fixed order of its entries.
static inline void sum_entries(const RenderJob& job, size_t i, float* sums) {
  const int stride = kMoments + job.channels;
  for (int j = 0; j < stride; ++j) sums[j] = 0.0f;
  const uint32_t rank = job.splat_rank[i];
  const float* row = job.partial + size_t(job.entry_begin[rank]) * stride;
  for (uint32_t e = job.entry_begin[rank]; e < job.entry_begin[rank + 1]; ++e, row += stride)
    for (int j = 0; j < stride; ++j) sums[j] += row[j];
}

static void project_backward(const RenderJob& job, int block) {
  const PinholeCamera cam = make_camera(job.camera.viewmat, job.camera.intrinsics, job.camera.width, job.camera.height);
  const int begin = block * kCameraBlock;
  const int end = begin + kCameraBlock < job.count ? begin + kCameraBlock : job.count;
  Vf sum_R[9] = {}, sum_t[3] = {}, sum_center[3] = {};
  for (int first = begin; first < end; first += kLanes) {
    const int count = end - first < kLanes ? end - first : kLanes;
    bool any = false;
    for (int lane = 0; lane < count; ++lane) any |= job.radii[2 * size_t(first + lane)] > 0;
    if (!any) {
      zero_gradients(job, first, count);
      continue;
    }
    // Lanes of unseen Gaussians borrow the inputs of a seen one, with zero gradients: no NaN or Inf can enter.
    int donor = 0;
    while (job.radii[2 * size_t(first + donor)] <= 0) ++donor;
    alignas(64) float in[11][kLanes], sums[kMoments + kMaxChannels][kLanes], seen_lane[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool seen = lane < count && job.radii[2 * size_t(first + lane)] > 0;
      const size_t i = size_t(first + (seen ? lane : donor));
      seen_lane[lane] = seen ? 1.0f : 0.0f;
      for (int j = 0; j < 3; ++j) in[j][lane] = job.means[3 * i + j], in[3 + j][lane] = job.scales[3 * i + j];
      for (int j = 0; j < 4; ++j) in[6 + j][lane] = job.quats[4 * i + j];
      in[10][lane] = job.opacities[i];
      float total[kMoments + kMaxChannels];
      if (seen) {
        sum_entries(job, i, total);
        if (job.sh) {  // a colour clamped at zero passes nothing on
          const float* colors = job.colors + i * size_t(job.channels);
          for (int c = 0; c < 3; ++c) total[kMoments + c] = colors[c] > 0.0f ? total[kMoments + c] : 0.0f;
        }
      }
      for (int j = 0; j < kMoments + job.channels; ++j) sums[j][lane] = seen ? total[j] : 0.0f;
    }
    const Mask seen = load(seen_lane) > Vf{};
    const Vec3<Vf> mean = {load(in[0]), load(in[1]), load(in[2])}, scale = {load(in[3]), load(in[4]), load(in[5])};
    const Vf q[4] = {load(in[6]), load(in[7]), load(in[8]), load(in[9])}, opacity = load(in[10]);
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
    if (job.colour_channels) {
      Vf v_colour[kColourBits];
      for (int c = 0; c < job.colour_channels; ++c) v_colour[c] = load(sums[kMoments + c]);
      // Unseen Gaussians may hold NaN coefficients.
      Vec3<Vf> v_dir = view_colour_backward(job, view_direction(cam, mean), first, count, v_colour);
      v_dir = {select(seen, v_dir.x, Vf{}), select(seen, v_dir.y, Vf{}), select(seen, v_dir.z, Vf{})};
      grad.mean = {grad.mean.x + v_dir.x, grad.mean.y + v_dir.y, grad.mean.z + v_dir.z};
      sum_center[0] = sum_center[0] - v_dir.x, sum_center[1] = sum_center[1] - v_dir.y;
      sum_center[2] = sum_center[2] - v_dir.z;
    }
    for (int j = 0; j < 9; ++j) sum_R[j] = sum_R[j] + select(seen, grad.R[j], Vf{});
    const Vf t[3] = {grad.t.x, grad.t.y, grad.t.z};
    for (int j = 0; j < 3; ++j) sum_t[j] = sum_t[j] + select(seen, t[j], Vf{});

    const auto of_seen = [&](Vf v) { return select(seen, v, Vf{}); };
    const Vf v_mean[3] = {of_seen(grad.mean.x), of_seen(grad.mean.y), of_seen(grad.mean.z)};
    const Vf v_scale[3] = {of_seen(grad.scale.x), of_seen(grad.scale.y), of_seen(grad.scale.z)};
    const Vf v_quat[4] = {of_seen(grad.quat[0]), of_seen(grad.quat[1]), of_seen(grad.quat[2]), of_seen(grad.quat[3])};
    const Vf v_mean2d[2] = {of_seen(v_mean_x), of_seen(v_mean_y)};
    v_opacity = of_seen(v_opacity);
    store_rows<3>(job.v_means + 3 * size_t(first), count, v_mean);
    store_rows<3>(job.v_scales + 3 * size_t(first), count, v_scale);
    store_rows<4>(job.v_quats + 4 * size_t(first), count, v_quat);
    store_rows<1>(job.v_opacities + first, count, &v_opacity);
    store_rows<2>(job.v_means2d + 2 * size_t(first), count, v_mean2d);
    if (job.v_means2d_abs) {
      const Vf v_abs[2] = {load(sums[6]), load(sums[7])};
      store_rows<2>(job.v_means2d_abs + 2 * size_t(first), count, v_abs);
    }
    if (job.v_features) {
      const int offset = kMoments + job.colour_channels;
      for (int lane = 0; lane < count; ++lane)
        for (int c = 0; c < job.feature_channels; ++c)
          job.v_features[size_t(first + lane) * job.feature_channels + c] = sums[offset + c][lane];
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
