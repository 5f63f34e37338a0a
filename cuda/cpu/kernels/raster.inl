// Rasterization of one 16 x 16 tile, forward and backward, in blocks of 4 x 4 pixels, of which small splats reach few:
// one vector or, where vectors are shorter, some. What is kept of a tile's pixels lies in memory block after block.
//
// The splats of a tile are taken in chunks. Each block has a list of those of the chunk that reach it, and goes through
// it with the state of its pixels in registers, one vector of pixels after the other.
//
// A pixel is finished by the first splat that would leave less than NFC_TRANSMITTANCE_MIN of its transmittance T, and
// keeps the T before that splat. Along a list T goes on shrinking all the same: that it has fallen below the minimum says
// that the pixel is finished. In memory a finished pixel holds -T.
//
// The backward pass goes front to back like the forward pass and so computes the same T, bit for bit; what lies behind a
// splat is the finished image minus what has been blended so far.
#pragma once

#include "simd.h"
#include "chunk.inl"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

// What some splats are to a vector of pixels: their alpha before it is capped and after, and u and v.
struct SplatAlphas {
  Vf uncapped[kSplatsAtOnce], alpha[kSplatsAtOnce], u[kSplatsAtOnce], v[kSplatsAtOnce];

  template <int D>
  SplatAlphas(const Chunk<D>& chunk, const uint8_t* list, const BlockPixels& at) {
    for (int i = 0; i < kSplatsAtOnce; ++i) {
      const TileSplat<D>& s = chunk.splats[list[i]];
      u[i] = multiply_add(broadcast(s.q), at.y, multiply_add(broadcast(s.p), at.x, broadcast(s.u0)));
      v[i] = multiply_add(broadcast(s.r), at.y, broadcast(s.v0));
      uncapped[i] = (s.log2_opacity - v[i] * v[i]) - u[i] * u[i];
    }
    Mask counts[kSplatsAtOnce];
    for (int i = 0; i < kSplatsAtOnce; ++i) counts[i] = uncapped[i] >= broadcast(kLog2AlphaMin);
    exp_2<kSplatsAtOnce>(uncapped);
    for (int i = 0; i < kSplatsAtOnce; ++i)
      alpha[i] = select(counts[i], minimum(uncapped[i], broadcast(NFC_ALPHA_MAX)), Vf{});
  }
};

inline void start_transmittance(const TileView& v, float* T) {
  float inside[kTile];
  for (int i = 0; i < kTile; ++i) inside[i] = i >= v.column_begin && i < v.column_begin + v.columns ? 1.0f : -1.0f;
  for (int i = 0; i < kTilePixels; ++i) T[i] = -1.0f;
  for (int row = v.row_begin; row < v.row_end; ++row) store_row(inside, row, T);
}

inline Mask is_live(Vf T) { return T >= broadcast(NFC_TRANSMITTANCE_MIN); }

// Whether a block has a pixel that is not finished.
inline bool any_live(const float* T) {
  Vf top = load(T);
  for (int m = 1; m < kBlockVectors; ++m) top = maximum(top, load(T + m * kLanes));
  return any(is_live(top));
}

inline int min_int(int a, int b) { return a < b ? a : b; }

// What the expected depth is divided by.
inline float covered(float alpha) { return alpha > 1e-10f ? alpha : 1e-10f; }

// Blends the splats of a list into a vector of pixels: their transmittance and channels, which are kTilePixels apart.
// Returns whether pixels are left that are not finished.
template <int D>
inline bool blend_vector(const Chunk<D>& chunk, int block, int part, float* T, float* sums) {
  const BlockPixels at(block, part);
  const uint8_t* list = chunk.lists[block];
  const int length = chunk.lengths[block];
  Vf t = load(T), left = maximum(t, -t), sum[D];
  for (int c = 0; c < D; ++c) sum[c] = load(sums + c * kTilePixels);
  for (int next = 0; next < length && any(is_live(t)); next += kLanes) {
    t = select(is_live(t), t, Vf{});
    const int end = next + kLanes < length ? next + kLanes : length;
    for (int k = next; k < end; k += kSplatsAtOnce) {
      const SplatAlphas of(chunk, list + k, at);
      for (int i = 0; i < kSplatsAtOnce; ++i) {
        const Vf blended = of.alpha[i] * t, after = t - blended;
        const Vf weight = select(is_live(after), blended, Vf{});
        t = after, left = select(is_live(after), after, left);
        const float* color = chunk.splats[list[k + i]].color;
        for (int c = 0; c < D; ++c) sum[c] = sum[c] + weight * color[c];
      }
    }
  }
  store(T, select(is_live(t), t, -left));
  for (int c = 0; c < D; ++c) store(sums + c * kTilePixels, sum[c]);
  return any(is_live(t));
}

// A row of a tile's pixels with channels [first, first + D) of an image of `channels`, each pixel's next to each other:
// where they lie in the image if there are just these, or else in a copy.
template <int D, typename Float>
struct PixelRow {
  float copy[kTile * D];
  Float* const image;
  const int channels, used, begin, columns;
  const bool whole;
  Float* const pixels;

  PixelRow(Float* image, int channels, int first, const TileView& view)
      : image(image + first), channels(channels), used(min_int(D, channels - first)), begin(view.column_begin),
        columns(view.columns), whole(columns == kTile && channels == D),
        pixels(whole ? this->image : copy) {}

  void read() {
    if (whole) return;
    memset(copy, 0, sizeof copy);
    for (int i = 0; i < columns; ++i)
      for (int c = 0; c < used; ++c) copy[(begin + i) * D + c] = image[i * channels + c];
  }

  void write() const {
    if (whole) return;
    for (int i = 0; i < columns; ++i)
      for (int c = 0; c < used; ++c) image[i * channels + c] = copy[(begin + i) * D + c];
  }
};

// Blends channels [first, first + D) of the tile.
template <int D>
void raster_channels(const RenderJob& job, int tile, int first) {
  const TileView view = tile_view(job, tile);
  alignas(64) float T[kTilePixels], sum[D][kTilePixels];
  start_transmittance(view, T);
  memset(sum, 0, sizeof sum);

  const uint32_t begin = job.tile_begin[tile], end = job.tile_begin[tile + 1];
  uint32_t slot = begin;
  for (bool live = true; live && slot < end;) {
    const Chunk<D> chunk(job, view, slot, end, first);
    live = false;
    for (int block = 0; block < kBlocks; ++block) {
      for (int m = 0; m < kBlockVectors; ++m) {
        const int pixel = block * kBlockPixels + m * kLanes;
        live |= blend_vector(chunk, block, m, T + pixel, sum[0] + pixel);
      }
    }
    slot += uint32_t(chunk.count);
  }
  job.tile_used[tile] = slot - begin;

  const int out_channels = job.channels - (job.depth ? 1 : 0), colors = min_int(D, out_channels - first);
  float background[D] = {};
  for (int c = 0; c < colors; ++c) background[c] = job.background ? job.background[first + c] : 0.0f;
  for (int row = view.row_begin; row < view.row_end; ++row) {
    const size_t at = row_index(job, view, row);
    float left[kTile], blended[D][kTile];
    PixelRow<D, float> out(job.out + at * out_channels, out_channels, first, view);
    load_row(T, row, left);
    for (int c = 0; c < D; ++c) load_row(sum[c], row, blended[c]);
    for (int i = 0; i < kTile; ++i) {
      left[i] = fabsf(left[i]);
      for (int c = 0; c < D; ++c) out.pixels[i * D + c] = blended[c][i] + left[i] * background[c];
    }
    out.write();
    for (int column = 0; column < view.columns; ++column) {
      const int i = view.column_begin + column;
      job.out_alpha[at + column] = 1.0f - left[i];
      if (colors < D) job.out_depth[at + column] = blended[D - 1][i] / covered(1.0f - left[i]);
    }
  }
}

// What the backward pass needs at each pixel of a tile.
template <int D>
struct PixelGradients {
  alignas(64) float T[kTilePixels];
  alignas(64) float behind[kTilePixels];  // sum over channels of gradient times what is not blended yet
  alignas(64) float v[D][kTilePixels];    // gradient of each composited channel
};

template <int D>
inline void load_gradients(const RenderJob& job, int tile, const TileView& view, int first,
                                  PixelGradients<D>* g) {
  const int out_channels = job.channels - (job.depth ? 1 : 0), colors = min_int(D, out_channels - first);
  start_transmittance(view, g->T);
  memset(g->behind, 0, sizeof g->behind);
  memset(g->v, 0, sizeof g->v);
  float v_background[D] = {};
  for (int row = view.row_begin; row < view.row_end; ++row) {
    const size_t at = row_index(job, view, row);
    const float* alpha = job.out_alpha + at;
    float row_behind[kTile] = {}, row_v[D][kTile] = {};
    float *const behind = row_behind + view.column_begin, *const v_last = row_v[D - 1] + view.column_begin;
    if (job.v_out) {
      PixelRow<D, float> out(job.out + at * out_channels, out_channels, first, view);
      PixelRow<D, const float> v_out(job.v_out + at * out_channels, out_channels, first, view);
      out.read(), v_out.read();
      for (int i = 0; i < kTile; ++i) {
        for (int c = 0; c < D; ++c) {
          const float v = v_out.pixels[i * D + c];
          row_v[c][i] = v, row_behind[i] += out.pixels[i * D + c] * v;
        }
      }
      for (int c = 0; job.tile_background && c < colors; ++c) {
        for (int column = 0; column < view.columns; ++column)
          v_background[c] += (1.0f - alpha[column]) * v_out.pixels[(view.column_begin + column) * D + c];
      }
    }
    if (colors < D && job.v_depth) {
      for (int column = 0; column < view.columns; ++column) {  // depth = sum / covered(alpha)
        v_last[column] = job.v_depth[at + column] / covered(alpha[column]);
        behind[column] += job.out_depth[at + column] * job.v_depth[at + column];
      }
    }
    if (first == 0 && (job.v_alpha || job.v_depth)) {  // alpha = 1 - T; its gradient is part of the first pass
      for (int column = 0; column < view.columns; ++column) {
        float v_alpha = job.v_alpha ? job.v_alpha[at + column] : 0.0f;
        if (job.v_depth && alpha[column] > 1e-10f)
          v_alpha -= job.v_depth[at + column] * job.out_depth[at + column] / alpha[column];
        behind[column] -= (1.0f - alpha[column]) * v_alpha;
      }
    }
    store_row(row_behind, row, g->behind);
    for (int c = 0; c < D; ++c) store_row(row_v[c], row, g->v[c]);
  }
  if (!job.tile_background) return;
  for (int c = 0; c < D; ++c)
    if (first + c < out_channels) job.tile_background[size_t(tile) * job.channels + first + c] = v_background[c];
}

// Sums over the pixels of a tile, for each splat of a chunk: of g = alpha v_alpha times 1, dx, dy, dx^2, dx dy, dy^2
// (all that the gradients of opacity, mean and conic need), of |gradient of the mean| with Abs, and the gradients of its
// channels.
template <int D, bool Abs>
struct SplatSums {
  static constexpr int kMoments = Abs ? kAllMoments : kPlainMoments, kSums = kMoments + D;
  static constexpr int kStride = (kSums + kLanes - 1) / kLanes * kLanes;

  alignas(64) float sums[Chunk<D>::kSize][kStride];
};

// What a block of pixels gives a vector of splats: vector m of splat k at [m * kLanes + k].
template <bool Abs>
struct BlockGradients {
  Vf g[kBlockPixels], weight[kBlockPixels];
  Vf absolute[1 + Abs][kLanes];                      // of the gradient of the mean, summed over the vectors
  alignas(64) float mean_x[kLanes], mean_y[kLanes];  // of the splats
};

// Makes of the pixels of each splat the splats of each pixel.
inline void transpose_block(Vf* values) {
  for (int m = 0; m < kBlockVectors; ++m) transpose(values + m * kLanes);
}

// Adds the sums over a block of pixels for up to kLanes splats of the list.
template <int D, bool Abs>
inline void add_block_sums(const uint8_t* list, int count, int block, const PixelGradients<D>& pixels,
                           BlockGradients<Abs>& of, SplatSums<D, Abs>* to) {
  using Sums = SplatSums<D, Abs>;
  Vf total[Sums::kStride] = {};
  transpose_block(of.g);
  // The moments about the centre of the block ...
  for (int row = 0; row < kBlock; ++row) {
    const Vf* g = of.g + row * kBlock;  // at x = -1.5, -0.5, 0.5, 1.5
    const Vf outer = g[0] + g[3], inner = g[1] + g[2], g0 = outer + inner, g2 = 2.25f * outer + 0.25f * inner;
    const Vf g1 = 1.5f * (g[3] - g[0]) + 0.5f * (g[2] - g[1]);
    const float y = pixel_offset(row);
    total[0] = total[0] + g0, total[1] = total[1] + g1, total[2] = total[2] + g0 * y;
    total[3] = total[3] + g2, total[4] = total[4] + g1 * y, total[5] = total[5] + g0 * (y * y);
  }
  // ... and from there about the means of the splats.
  const Vf dx = block_centre(block % kBlocksAcross) - load(of.mean_x);
  const Vf dy = block_centre(block / kBlocksAcross) - load(of.mean_y);
  const Vf gx = total[1] + dx * total[0], gy = total[2] + dy * total[0];
  total[3] = total[3] + dx * (total[1] + gx);
  total[4] = total[4] + dx * total[2] + dy * gx;
  total[5] = total[5] + dy * (total[2] + gy);
  total[1] = gx, total[2] = gy;
  if (Abs) {
    for (int j = 0; j < 2; ++j) {
      alignas(64) float sums[kLanes];
      sum_lanes<kLanes>(of.absolute[Abs ? j : 0], sums);
      total[kPlainMoments + j] = load(sums) * (1.0f / (kExponentScale * kExponentScale));
    }
  }
  transpose_block(of.weight);
  for (int i = 0; i < kBlockPixels; ++i)
    for (int c = 0; c < D; ++c)
      total[Sums::kMoments + c] = total[Sums::kMoments + c] + of.weight[i] * pixels.v[c][block * kBlockPixels + i];
  for (int j = 0; j < Sums::kStride; j += kLanes) {
    transpose(total + j);
    for (int k = 0; k < count; ++k) {
      float* sums = to->sums[list[k]] + j;
      store(sums, load(sums) + total[j + k]);
    }
  }
}

// The backward pass of a vector of the pixels of a block, `part`, through up to kLanes splats.
template <int D, bool Abs>
inline void vector_backward(const Chunk<D>& chunk, const uint8_t* list, int count, int block, int part,
                            PixelGradients<D>* g, BlockGradients<Abs>* of) {
  const BlockPixels at(block, part);
  const int pixel = block * kBlockPixels + part * kLanes;
  Vf t = load(g->T + pixel), behind = load(g->behind + pixel), v_out[D];
  for (int c = 0; c < D; ++c) v_out[c] = load(g->v[c] + pixel);
  t = select(is_live(t), t, Vf{});
  for (int first = 0; first < count; first += kSplatsAtOnce) {
    const SplatAlphas alphas(chunk, list + first, at);
    for (int i = 0; i < kSplatsAtOnce; ++i) {
      const int k = first + i;
      const TileSplat<D>& s = chunk.splats[list[k]];
      const Vf alpha = alphas.alpha[i], after = t - t * alpha;
      const Mask live = is_live(after);
      const Vf weight = select(live, alpha * t, Vf{});
      t = after;
      Vf blended = Vf{};  // sum over channels of gradient times the splat's part
      for (int c = 0; c < D; ++c) blended = blended + s.color[c] * v_out[c];
      blended = blended * weight;
      behind = behind - blended;
      // alpha v_alpha = alpha (T color v - behind / (1 - alpha)); zero where alpha is capped or the pixel finished
      Vf ga = blended - alpha * behind * reciprocal(1.0f - alpha);
      ga = select(both(live, alphas.uncapped[i] < broadcast(NFC_ALPHA_MAX)), ga, Vf{});
      of->g[part * kLanes + k] = ga, of->weight[part * kLanes + k] = weight;
      if (Abs) {  // the conic of the splat times (dx, dy) is (p u, q u + r v), up to the scale of exponents
        const Vf u = alphas.u[i], to_x = ga * (s.p * u), to_y = ga * (s.q * u + s.r * alphas.v[i]);
        of->absolute[0][k] = of->absolute[0][k] + maximum(to_x, -to_x);
        of->absolute[Abs][k] = of->absolute[Abs][k] + maximum(to_y, -to_y);
      }
    }
  }
  for (int k = (count + kSplatsAtOnce - 1) / kSplatsAtOnce * kSplatsAtOnce; k < kLanes; ++k)
    of->g[part * kLanes + k] = of->weight[part * kLanes + k] = Vf{};
  store(g->T + pixel, t), store(g->behind + pixel, behind);
}

// The backward pass of a block of pixels through the splats of a chunk.
template <int D, bool Abs>
inline void block_backward(const Chunk<D>& chunk, int block, PixelGradients<D>* g, SplatSums<D, Abs>* to) {
  const uint8_t* list = chunk.lists[block];
  const int length = chunk.lengths[block];
  for (int next = 0; next < length && any_live(g->T + block * kBlockPixels); next += kLanes) {
    const int count = length - next < kLanes ? length - next : kLanes;
    BlockGradients<Abs> of;
    if (Abs) memset(of.absolute, 0, sizeof of.absolute);
    for (int k = 0; k < kLanes; ++k) {
      const TileSplat<D>& s = chunk.splats[list[next + (k < count ? k : 0)]];
      of.mean_x[k] = s.mean_x, of.mean_y[k] = s.mean_y;
    }
    for (int part = 0; part < kBlockVectors; ++part) vector_backward(chunk, list + next, count, block, part, g, &of);
    add_block_sums(list + next, count, block, *g, of, to);
  }
}

template <int D, bool Abs>
void raster_channels_backward(const RenderJob& job, int tile, int first) {
  using Sums = SplatSums<D, Abs>;
  const TileView view = tile_view(job, tile);
  PixelGradients<D> g;
  load_gradients<D>(job, tile, view, first, &g);
  Sums of;

  const int stride = Sums::kMoments + job.channels;
  const uint32_t begin = job.tile_begin[tile], end = job.tile_begin[tile + 1], used = begin + job.tile_used[tile];
  for (uint32_t slot = begin; slot < used;) {
    const Chunk<D> chunk(job, view, slot, used, first);
    memset(of.sums, 0, size_t(chunk.count) * sizeof of.sums[0]);
    for (int k = 0; k < chunk.count; ++k) {
      const float* out = job.partial + size_t(job.tile_entries[slot + uint32_t(k)].entry) * stride;
      NFC_PREFETCH(out);
      NFC_PREFETCH(out + stride - 1);
    }
    for (int block = 0; block < kBlocks; ++block) block_backward(chunk, block, &g, &of);
    for (int k = 0; k < chunk.count; ++k) {
      float* out = job.partial + size_t(job.tile_entries[slot + uint32_t(k)].entry) * stride;
      const float* sums = of.sums[k];
      if (first == 0) {
        memcpy(out, sums, Sums::kSums * sizeof(float));
      } else {
        for (int j = 0; j < kPlainMoments; ++j) out[j] += sums[j];
        memcpy(out + Sums::kMoments + first, sums + Sums::kMoments, D * sizeof(float));
      }
    }
    slot += uint32_t(chunk.count);
  }
  for (uint32_t slot = used; slot < end; ++slot) {
    float* out = job.partial + size_t(job.tile_entries[slot].entry) * stride;
    if (first == 0) memset(out, 0, Sums::kMoments * sizeof(float));
    memset(out + Sums::kMoments + first, 0, D * sizeof(float));
  }
}

void raster(const RenderJob& job, int tile) {
  for (int first = 0; first < job.channels; first += kMaxChannelsAtOnce) {
    switch (job.channels - first) {
      case 1:
        raster_channels<1>(job, tile, first);
        break;
      case 2:
        raster_channels<2>(job, tile, first);
        break;
      case 3:
        raster_channels<3>(job, tile, first);
        break;
      default:
        raster_channels<4>(job, tile, first);
        break;
    }
  }
}

template <bool Abs>
void raster_backward_with(const RenderJob& job, int tile) {
  for (int first = 0; first < job.channels; first += kMaxChannelsAtOnce) {
    switch (job.channels - first) {
      case 1:
        raster_channels_backward<1, Abs>(job, tile, first);
        break;
      case 2:
        raster_channels_backward<2, Abs>(job, tile, first);
        break;
      case 3:
        raster_channels_backward<3, Abs>(job, tile, first);
        break;
      default:
        raster_channels_backward<4, Abs>(job, tile, first);
        break;
    }
  }
}

void raster_backward(const RenderJob& job, int tile) {
  if (job.absgrad) {
    raster_backward_with<true>(job, tile);
  } else {
    raster_backward_with<false>(job, tile);
  }
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
