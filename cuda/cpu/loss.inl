// Fused photometric loss of one image, forward and backward: L1, squared error and SSIM (Wang et al. 2004, eq. 13, with
// an 11-tap Gaussian window), weighted by a mask. SSIM needs only mu_x, mu_y, E[x^2 + y^2] and E[xy].
// The window is separable: one pass along rows, one down columns, and the same two for the gradient.

constexpr int kHalf = NFC_SSIM_WINDOW / 2;
constexpr int kPad = 3 * kHalf + 1 + 64;  // zeros on either side of a row of interleaved colours

struct Window {
  float w[NFC_SSIM_WINDOW];
};

static inline Window gaussian_window() {
  Window g;
  float sum = 0.0f;
  for (int i = 0; i < NFC_SSIM_WINDOW; ++i) {
    const float d = float(i - kHalf);
    g.w[i] = expf(-d * d / (2.0f * NFC_SSIM_SIGMA * NFC_SSIM_SIGMA));
    sum += g.w[i];
  }
  for (int i = 0; i < NFC_SSIM_WINDOW; ++i) g.w[i] /= sum;
  return g;
}

static inline float* scratch_row(const LossJob& job, float* base, int quantity, int row) {
  return base + (size_t(quantity) * job.height + row) * job.stride;
}

// Masked pixels count as zero in both images.
static inline bool counts(const LossJob& job, int row, int column) {
  return !job.mask || job.mask[size_t(row) * job.width + column] >= 128;
}

constexpr int kChunk = 768;  // values of a row that are worked on at once: 256 pixels

// Copies rendered and target values [from - halo, from + n + halo) of a row, zero outside the image and the mask.
static inline void gather(const LossJob& job, int row, int from, int n, int halo, float* x, float* y) {
  const int values = 3 * job.width;
  const float* rendered = job.rendered + size_t(row) * values;
  const uint8_t* target = job.target + size_t(row) * values;
  for (int i = -halo; i < n + halo; ++i) {
    const int at = from + i;
    const bool inside = at >= 0 && at < values;
    x[i + halo] = inside ? rendered[at] : 0.0f;
    y[i + halo] = inside ? float(target[at]) * (1.0f / 255.0f) : 0.0f;
  }
  if (job.mask) {
    for (int i = -halo; i < n + halo; ++i) {
      const int at = from + i;
      if (at >= 0 && at < values && !counts(job, row, at / 3)) x[i + halo] = y[i + halo] = 0.0f;
    }
  }
}

static inline void convolve(const Window& g, const float* in, int step, int n, float* out) {
  for (int i = 0; i < n; i += kLanes) {
    Vf sum = g.w[0] * load(in + i);
    for (int k = 1; k < NFC_SSIM_WINDOW; ++k) sum = sum + g.w[k] * load(in + i + k * step);
    store(out + i, sum);
  }
}

static void loss_horizontal(const LossJob& job, int row) {
  const Window g = gaussian_window();
  const int values = 3 * job.width, halo = 3 * kHalf;
  alignas(64) float x[kChunk + 2 * kPad], y[kChunk + 2 * kPad], squares[kChunk + 2 * kPad], product[kChunk + 2 * kPad];
  for (int from = 0; from < values; from += kChunk) {
    const int n = values - from < kChunk ? values - from : kChunk;
    gather(job, row, from, n, halo, x, y);
    const int span = n + 2 * halo;
    for (int i = span; i < span + kLanes; ++i) x[i] = y[i] = 0.0f;
    for (int i = 0; i < span + kLanes; i += kLanes) {
      const Vf a = load(x + i), b = load(y + i);
      store(squares + i, a * a + b * b);
      store(product + i, a * b);
    }
    convolve(g, x, 3, n, scratch_row(job, job.horizontal, 0, row) + from);
    convolve(g, y, 3, n, scratch_row(job, job.horizontal, 1, row) + from);
    convolve(g, squares, 3, n, scratch_row(job, job.horizontal, 2, row) + from);
    convolve(g, product, 3, n, scratch_row(job, job.horizontal, 3, row) + from);
  }
}

// One vector of values of `quantity`, convolved down its column around `row`.
static inline Vf convolve_column(const LossJob& job, const Window& g, float* base, int quantity, int row, int at) {
  Vf sum = Vf{};
  const int low = row < kHalf ? kHalf - row : 0;
  const int high = row + kHalf >= job.height ? job.height - 1 - row + kHalf : NFC_SSIM_WINDOW - 1;
  const float* in = scratch_row(job, base, quantity, row + low - kHalf) + at;
  for (int k = low; k <= high; ++k, in += job.stride) sum = sum + g.w[k] * load(in);
  return sum;
}

// SSIM of a row and the derivative of the loss with respect to mu_x, E[x^2 + y^2] and E[xy], convolved along the row.
static void loss_vertical(const LossJob& job, int row) {
  const Window g = gaussian_window();
  const int values = 3 * job.width, halo = 3 * kHalf;
  const float scale = -job.ssim_weight * job.inv_count;
  // The derivative maps of a whole row are needed before the row can be convolved; they stay in scratch meanwhile.
  float* maps[3];
  for (int q = 0; q < 3; ++q) maps[q] = scratch_row(job, job.derivative, q, row);
  double total = 0.0;
  for (int at = 0; at < values; at += kLanes) {
    const Vf mx = convolve_column(job, g, job.horizontal, 0, row, at);
    const Vf my = convolve_column(job, g, job.horizontal, 1, row, at);
    const Vf squares = convolve_column(job, g, job.horizontal, 2, row, at);
    const Vf product = convolve_column(job, g, job.horizontal, 3, row, at);
    const Vf mxx = mx * mx, myy = my * my, mxy = mx * my;
    const Vf a1 = 2.0f * mxy + NFC_SSIM_C1, a2 = 2.0f * (product - mxy) + NFC_SSIM_C2;
    const Vf b1 = mxx + myy + NFC_SSIM_C1, b2 = squares - mxx - myy + NFC_SSIM_C2;
    const Vf inv = 1.0f / (b1 * b2);
    const Vf ssim = a1 * a2 * inv;
    alignas(64) float weight[kLanes], value[kLanes];
    for (int i = 0; i < kLanes; ++i) weight[i] = at + i < values && counts(job, row, (at + i) / 3) ? 1.0f : 0.0f;
    const Vf w = load(weight);
    store(value, w - w * ssim);
    for (int i = 0; i < kLanes; ++i) total += double(value[i]);
    const Vf k = w * scale;
    const Vf d_squares = -ssim / b2;
    const Vf d_product = 2.0f * a1 * inv;
    const Vf d_mx = 2.0f * (my * (a2 - a1) * inv - mx * ssim * (1.0f / b1 - 1.0f / b2));
    store(maps[0] + at, k * d_mx);
    store(maps[1] + at, k * d_squares);
    store(maps[2] + at, k * d_product);
  }
  job.row_sums[3 * size_t(row) + 1] = total;
  if (!job.gradient) return;
  for (int q = 0; q < 3; ++q) {
    // In place: each chunk is read with its halo before it is written.
    alignas(64) float in[kChunk + 2 * kPad];
    float left[3 * kHalf] = {};
    for (int from = 0; from < values; from += kChunk) {
      const int n = values - from < kChunk ? values - from : kChunk;
      memcpy(in, left, sizeof left);
      for (int i = 0; i < n + halo + kLanes; ++i) in[halo + i] = from + i < values ? maps[q][from + i] : 0.0f;
      if (n == kChunk) memcpy(left, maps[q] + from + n - halo, sizeof left);
      alignas(64) float out[kChunk + kLanes];
      convolve(g, in, 3, n, out);
      memcpy(maps[q] + from, out, size_t(n) * sizeof(float));
    }
  }
}

// L1 and squared error of a row, and the gradient of the whole loss with respect to the rendered row.
static void loss_gradient(const LossJob& job, int row) {
  const Window g = gaussian_window();
  const int values = 3 * job.width;
  const float l1 = job.l1_weight * job.inv_count, mse = 2.0f * job.mse_weight * job.inv_count;
  double absolute = 0.0, squared = 0.0;
  alignas(64) float x[kLanes], y[kLanes], weight[kLanes];
  for (int at = 0; at < values; at += kLanes) {
    const int n = values - at < kLanes ? values - at : kLanes;
    for (int i = 0; i < kLanes; ++i) {
      const size_t j = size_t(row) * values + size_t(at + (i < n ? i : 0));
      x[i] = job.rendered[j], y[i] = float(job.target[j]) * (1.0f / 255.0f);
      weight[i] = i < n && counts(job, row, (at + i) / 3) ? 1.0f : 0.0f;
    }
    const Vf w = load(weight), a = w * load(x), b = w * load(y), difference = a - b;
    alignas(64) float lanes[kLanes];
    store(lanes, difference);
    for (int i = 0; i < kLanes; ++i) absolute += double(fabsf(lanes[i])), squared += double(lanes[i]) * double(lanes[i]);
    if (!job.gradient) continue;
    Vf v = mse * difference;
    v = v + select(difference > Vf{}, broadcast(l1), select(difference < Vf{}, broadcast(-l1), Vf{}));
    if (job.ssim_weight != 0.0f) {
      const Vf d_mx = convolve_column(job, g, job.derivative, 0, row, at);
      const Vf d_squares = convolve_column(job, g, job.derivative, 1, row, at);
      const Vf d_product = convolve_column(job, g, job.derivative, 2, row, at);
      v = v + w * (d_mx + 2.0f * a * d_squares + b * d_product);
    }
    store(lanes, v);
    memcpy(job.gradient + size_t(row) * values + at, lanes, size_t(n) * sizeof(float));
  }
  job.row_sums[3 * size_t(row)] = absolute;
  job.row_sums[3 * size_t(row) + 2] = squared;
}
