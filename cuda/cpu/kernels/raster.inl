// Rasterization of one 16 x 16 tile, forward and backward, in blocks of 4 x 4 pixels, of which small splats reach few:
// one vector or, where vectors are shorter, some. What is kept of a tile's pixels lies in memory block after block.
//
// The splats of a tile are taken in chunks. Each block has a list of those of the chunk that reach it, and goes through
// it with the state of its pixels in registers.
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

// log2 of the uncapped alpha of a vector of pixels, and whether it counts.
template <int D>
inline Vf splat_exponent(const TileSplat<D>& s, Vf x, Vf y, Vf* u, Vf* v, Mask* counts) {
  *u = multiply_add(broadcast(s.q), y, multiply_add(broadcast(s.p), x, broadcast(s.u0)));
  *v = multiply_add(broadcast(s.r), y, broadcast(s.v0));
  const Vf exponent = (s.log2_opacity - *v * *v) - *u * *u;
  *counts = exponent >= broadcast(kLog2AlphaMin);
  return exponent;
}

inline void start_transmittance(const TileView& v, float* T) {
  for (int i = 0; i < kTilePixels; ++i) T[i] = -1.0f;
  for (int row = v.row_begin; row < v.row_end; ++row)
    for (int column = 0; column < v.columns; ++column) T[pixel_at(row, v.column_begin + column)] = 1.0f;
}

inline Mask is_live(Vf T) { return T >= broadcast(NFC_TRANSMITTANCE_MIN); }

// Whether a block has a pixel that is not finished.
inline bool any_live(const Vf* T) {
  Vf top = T[0];
  for (int m = 1; m < kBlockVectors; ++m) top = maximum(top, T[m]);
  return any(is_live(top));
}

// What the expected depth is divided by.
inline float covered(float alpha) { return alpha > 1e-10f ? alpha : 1e-10f; }

// Blends the splats of a chunk into a block of pixels: their transmittance and channels, which are kTilePixels apart.
// Returns whether pixels are left that are not finished.
template <int D>
inline bool blend_block(const Chunk<D>& chunk, int block, float* T, float* sums) {
  const BlockPixels at(block);
  const int *list = chunk.lists[block], length = chunk.lengths[block];
  Vf t[kBlockVectors], left[kBlockVectors], sum[D][kBlockVectors];
  for (int m = 0; m < kBlockVectors; ++m) {
    t[m] = load(T + m * kLanes), left[m] = maximum(t[m], -t[m]);
    for (int c = 0; c < D; ++c) sum[c][m] = load(sums + c * kTilePixels + m * kLanes);
  }
  for (int next = 0; next < length && any_live(t); next += kLanes) {
    for (int m = 0; m < kBlockVectors; ++m) t[m] = select(is_live(t[m]), t[m], Vf{});
    const int end = next + kLanes < length ? next + kLanes : length;
    for (int k = next; k < end; ++k) {
      const TileSplat<D>& s = chunk.splats[list[k]];
      for (int m = 0; m < kBlockVectors; ++m) {
        Vf u, v;
        Mask counts;
        const Vf exponent = splat_exponent(s, at.x, at.y[m], &u, &v, &counts);
        const Vf alpha = select(counts, minimum(exp_2(exponent), broadcast(NFC_ALPHA_MAX)), Vf{});
        const Vf after = t[m] - t[m] * alpha;
        const Vf weight = select(is_live(after), alpha * t[m], Vf{});
        t[m] = after, left[m] = select(is_live(after), after, left[m]);
        for (int c = 0; c < D; ++c) sum[c][m] = sum[c][m] + weight * s.color[c];
      }
    }
  }
  for (int m = 0; m < kBlockVectors; ++m) {
    store(T + m * kLanes, select(is_live(t[m]), t[m], -left[m]));
    for (int c = 0; c < D; ++c) store(sums + c * kTilePixels + m * kLanes, sum[c][m]);
  }
  return any_live(t);
}

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
      const int pixel = block * kBlockPixels;
      live |= blend_block(chunk, block, T + pixel, sum[0] + pixel);
    }
    slot += uint32_t(chunk.count);
  }
  job.tile_used[tile] = slot - begin;

  const int out_channels = job.channels - (job.depth ? 1 : 0);
  for (int row = view.row_begin; row < view.row_end; ++row) {
    const size_t at = row_index(job, view, row);
    int pixel[kTile];
    float left[kTile];
    for (int column = 0; column < view.columns; ++column) {
      pixel[column] = pixel_at(row, view.column_begin + column);
      left[column] = fabsf(T[pixel[column]]);
      job.out_alpha[at + column] = 1.0f - left[column];
    }
    for (int c = 0; c < D; ++c) {
      if (first + c == out_channels) {
        for (int column = 0; column < view.columns; ++column)
          job.out_depth[at + column] = sum[c][pixel[column]] / covered(1.0f - left[column]);
      } else {
        const float behind = job.background ? job.background[first + c] : 0.0f;
        float* out = job.out + at * out_channels + first + c;
        for (int column = 0; column < view.columns; ++column)
          out[column * out_channels] = sum[c][pixel[column]] + left[column] * behind;
      }
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
  const int out_channels = job.channels - (job.depth ? 1 : 0);
  start_transmittance(view, g->T);
  memset(g->behind, 0, sizeof g->behind);
  memset(g->v, 0, sizeof g->v);
  float v_background[D] = {};
  for (int row = view.row_begin; row < view.row_end; ++row) {
    const size_t at = row_index(job, view, row);
    const float* alpha = job.out_alpha + at;
    int pixel[kTile];
    for (int column = 0; column < view.columns; ++column) pixel[column] = pixel_at(row, view.column_begin + column);
    for (int c = 0; c < D; ++c) {
      float* v = g->v[c];
      if (first + c == out_channels) {
        if (!job.v_depth) continue;
        for (int column = 0; column < view.columns; ++column) {  // depth = sum / covered(alpha)
          v[pixel[column]] = job.v_depth[at + column] / covered(alpha[column]);
          g->behind[pixel[column]] += job.out_depth[at + column] * job.v_depth[at + column];
        }
      } else if (job.v_out) {
        const float* out = job.out + at * out_channels + first + c;
        const float* v_out = job.v_out + at * out_channels + first + c;
        for (int column = 0; column < view.columns; ++column) {
          v[pixel[column]] = v_out[column * out_channels];
          g->behind[pixel[column]] += out[column * out_channels] * v_out[column * out_channels];
        }
        if (job.tile_background) {
          for (int column = 0; column < view.columns; ++column)
            v_background[c] += (1.0f - alpha[column]) * v_out[column * out_channels];
        }
      }
    }
    if (first == 0 && (job.v_alpha || job.v_depth)) {  // alpha = 1 - T; its gradient is part of the first pass
      for (int column = 0; column < view.columns; ++column) {
        float v_alpha = job.v_alpha ? job.v_alpha[at + column] : 0.0f;
        if (job.v_depth && alpha[column] > 1e-10f)
          v_alpha -= job.v_depth[at + column] * job.out_depth[at + column] / alpha[column];
        g->behind[pixel[column]] -= (1.0f - alpha[column]) * v_alpha;
      }
    }
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
  Vf absolute[Abs ? 2 : 1][kLanes];                  // of the gradient of the mean, summed over the vectors
  alignas(64) float mean_x[kLanes], mean_y[kLanes];  // of the splats
};

// Makes of the pixels of each splat the splats of each pixel.
inline void transpose_block(Vf* values) {
  for (int m = 0; m < kBlockVectors; ++m) transpose(values + m * kLanes);
}

// Adds the sums over a block of pixels for up to kLanes splats of the list.
template <int D, bool Abs>
inline void add_block_sums(const int* list, int count, int block, const PixelGradients<D>& pixels,
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
      total[kPlainMoments + j] = load(sums);
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

// The backward pass of a block of pixels through the splats of a chunk.
template <int D, bool Abs>
inline void block_backward(const Chunk<D>& chunk, int block, PixelGradients<D>* g, SplatSums<D, Abs>* to) {
  const BlockPixels at(block);
  const int *list = chunk.lists[block], length = chunk.lengths[block], pixel = block * kBlockPixels;
  Vf t[kBlockVectors], behind[kBlockVectors], v_out[D][kBlockVectors];
  for (int m = 0; m < kBlockVectors; ++m) {
    t[m] = load(g->T + pixel + m * kLanes), behind[m] = load(g->behind + pixel + m * kLanes);
    for (int c = 0; c < D; ++c) v_out[c][m] = load(g->v[c] + pixel + m * kLanes);
  }
  for (int next = 0; next < length && any_live(t); next += kLanes) {
    for (int m = 0; m < kBlockVectors; ++m) t[m] = select(is_live(t[m]), t[m], Vf{});
    const int count = length - next < kLanes ? length - next : kLanes;
    BlockGradients<Abs> of;
    for (int k = 0; k < count; ++k) {
      const TileSplat<D>& s = chunk.splats[list[next + k]];
      Vf absolute[2] = {};
      for (int m = 0; m < kBlockVectors; ++m) {
        Vf u, v;
        Mask counts;
        const Vf uncapped = exp_2(splat_exponent(s, at.x, at.y[m], &u, &v, &counts));
        const Vf alpha = select(counts, minimum(uncapped, broadcast(NFC_ALPHA_MAX)), Vf{});
        const Vf after = t[m] - t[m] * alpha;
        const Mask live = is_live(after);
        const Vf weight = select(live, alpha * t[m], Vf{});
        t[m] = after;
        Vf blended = Vf{};  // sum over channels of gradient times the splat's part
        for (int c = 0; c < D; ++c) blended = blended + s.color[c] * v_out[c][m];
        blended = blended * weight;
        behind[m] = behind[m] - blended;
        // alpha v_alpha = alpha (T color v - behind / (1 - alpha)); zero where alpha is capped or the pixel finished
        Vf ga = blended - alpha * behind[m] * reciprocal(1.0f - alpha);
        ga = select(both(live, uncapped < broadcast(NFC_ALPHA_MAX)), ga, Vf{});
        of.g[m * kLanes + k] = ga, of.weight[m * kLanes + k] = weight;
        if (Abs) {  // the conic of the splat times (dx, dy) is (p u, q u + r v), up to the scale of exponents
          const Vf to_x = ga * (s.p * u), to_y = ga * (s.q * u + s.r * v);
          absolute[0] = absolute[0] + maximum(to_x, -to_x), absolute[1] = absolute[1] + maximum(to_y, -to_y);
        }
      }
      of.mean_x[k] = s.mean_x, of.mean_y[k] = s.mean_y;
      for (int j = 0; Abs && j < 2; ++j)
        of.absolute[Abs ? j : 0][k] = absolute[j] * (1.0f / (kExponentScale * kExponentScale));
    }
    for (int k = count; k < kLanes; ++k) {
      for (int m = 0; m < kBlockVectors; ++m) of.g[m * kLanes + k] = of.weight[m * kLanes + k] = Vf{};
      for (int j = 0; Abs && j < 2; ++j) of.absolute[Abs ? j : 0][k] = Vf{};
      of.mean_x[k] = of.mean_y[k] = 0.0f;
    }
    add_block_sums(list + next, count, block, *g, of, to);
  }
  for (int m = 0; m < kBlockVectors; ++m)
    store(g->T + pixel + m * kLanes, t[m]), store(g->behind + pixel + m * kLanes, behind[m]);
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
