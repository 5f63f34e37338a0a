// Features of points in the planes of a HexPlane, forward and backward (include/nfc_gs/hexplane.h); the lanes of a warp
// have neighbouring features of one point.
//
// The gradients of the planes use no atomics, which would contend where all points are at one time, and whose order is
// not fixed: points are sorted by cell, a block sums up the gradients of a cell's four corners, in the order of the
// points, and each value of a plane adds up those of the four cells around it.

#include "../include/nfc_gs/hexplane.h"
#include "kernel.h"

namespace nfc {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxPlanes = 6 * 8;

// `HexPlaneArgs` of nfc_gs/ops/kernel_args.py is the same struct. C cells of all planes together: as many as there are
// grid points, those of the last row and column being empty.
struct HexPlaneArgs {
  const float* planes[kMaxPlanes];  // [rows, columns, features] each, six per level
  float* v_planes[kMaxPlanes];      // added to
  int rows[kMaxPlanes], columns[kMaxPlanes], first_cell[kMaxPlanes + 1];
  const float* coords;        // [count, 3], the box is [-1, 1]
  float* out;                 // [count, levels, features]
  const float* v_out;
  float* v_coords;            // [count, 3]
  float* v_samples;           // [6 levels, count, features] gradients of the features sampled from each plane
  int* cell;                  // [6 levels, count] the cell that each point is in
  const long long* order;     // [6 levels * count] indices into `cell`, sorted by cell
  const int* cell_begin;      // [C + 1] ranges of `order`
  float* corners;             // [C, 4, features] gradients of the corners of the cells that have points
  int count, levels, features;
  float time;                 // in [-1, 1]
};

struct PlaneCells {
  Cell x, y;
  size_t at;  // of the corner with the lower indices
};

NFC_HD PlaneCells cells_of(const HexPlaneArgs& args, int index, const float* point) {
  const int column = column_axis(index % kPlanes), row = row_axis(index % kPlanes);
  // Selected, not indexed, so that `point` stays in registers.
  const float along_columns = column == 0 ? point[0] : column == 1 ? point[1] : point[2];
  const float along_rows = row == 1 ? point[1] : row == 2 ? point[2] : point[3];
  PlaneCells c;
  c.x = cell_of(along_columns, args.columns[index]), c.y = cell_of(along_rows, args.rows[index]);
  c.at = size_t(c.y.first) * args.columns[index] + c.x.first;
  return c;
}

NFC_HD void point_of(const HexPlaneArgs& args, size_t i, float* point) {
  for (int axis = 0; axis < 3; ++axis) point[axis] = args.coords[3 * i + axis];
  point[kTimeAxis] = args.time;
}

// A feature at the four corners of a cell.
struct Corners {
  float v00, v01, v10, v11;  // row, column
};

NFC_HD Corners corners_of(const HexPlaneArgs& args, int index, const PlaneCells& c, int feature) {
  const float* a = args.planes[index] + c.at * args.features + feature;
  const float* b = a + size_t(args.columns[index]) * args.features;
  return {a[0], a[args.features], b[0], b[args.features]};
}

}  // namespace nfc

// A thread per feature of a point.
NFC_KERNEL(hexplane, nfc::HexPlaneArgs, nfc::kThreads) {
  using namespace nfc;
  const size_t k = size_t(blockIdx.x) * kThreads + threadIdx.x, width = size_t(args.levels) * args.features;
  if (k >= width * args.count) return;
  const int level = int(k % width) / args.features, feature = int(k % width) % args.features;
  float point[4], product = 1.0f;
  point_of(args, k / width, point);
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    const int index = kPlanes * level + p;
    const PlaneCells c = cells_of(args, index, point);
    const Corners v = corners_of(args, index, c, feature);
    const float low = fmaf(c.x.weight, v.v01 - v.v00, v.v00), high = fmaf(c.x.weight, v.v11 - v.v10, v.v10);
    product *= fmaf(c.y.weight, high - low, low);
  }
  args.out[k] = product;
}

// A warp per point: the gradients of its coordinates and of the samples of each plane, and the cells it is in.
NFC_KERNEL(hexplane_points_backward, nfc::HexPlaneArgs, nfc::kThreads) {
  using namespace nfc;
  const int lane = threadIdx.x % kWarp;
  const size_t i = size_t(blockIdx.x) * kWarps + threadIdx.x / kWarp, count = size_t(args.count);
  if (i >= count) return;
  float point[4], v_point[4] = {};
  point_of(args, i, point);
  for (int level = 0; level < args.levels; ++level) {
    PlaneCells cells[kPlanes];
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
      const int index = kPlanes * level + p;
      cells[p] = cells_of(args, index, point);
      if (lane == 0) args.cell[index * count + i] = args.first_cell[index] + int(cells[p].at);
    }
    for (int f = lane; f < args.features; f += kWarp) {
      float found[kPlanes], slope_x[kPlanes], slope_y[kPlanes], others[kPlanes];
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        const PlaneCells& c = cells[p];
        const Corners v = corners_of(args, kPlanes * level + p, c, f);
        const float low = fmaf(c.x.weight, v.v01 - v.v00, v.v00), high = fmaf(c.x.weight, v.v11 - v.v10, v.v10);
        found[p] = fmaf(c.y.weight, high - low, low);
        slope_x[p] = fmaf(c.y.weight, (v.v11 - v.v10) - (v.v01 - v.v00), v.v01 - v.v00), slope_y[p] = high - low;
      }
      float product = args.v_out[(i * args.levels + level) * args.features + f];
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) others[p] = product, product *= found[p];
      product = 1.0f;
#pragma unroll
      for (int p = kPlanes - 1; p >= 0; --p) {
        others[p] *= product, product *= found[p];
        args.v_samples[((kPlanes * level + p) * count + i) * args.features + f] = others[p];
        v_point[column_axis(p)] += others[p] * slope_x[p] * cells[p].x.slope;
        v_point[row_axis(p)] += others[p] * slope_y[p] * cells[p].y.slope;
      }
    }
  }
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    float v = v_point[axis];
    for (int step = kWarp / 2; step > 0; step /= 2) v += __shfl_xor_sync(kAllLanes, v, step);
    if (lane == 0) args.v_coords[3 * i + axis] = v;
  }
}

// A block per cell; each warp adds up every fourth of its points.
NFC_KERNEL(hexplane_cells_backward, nfc::HexPlaneArgs, nfc::kThreads) {
  using namespace nfc;
  NFC_SHARED(float, sums, 4 * kThreads);
  const int cell = blockIdx.x, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int begin = args.cell_begin[cell], end = args.cell_begin[cell + 1];
  if (begin == end) return;
  int index = 0;
  while (cell >= args.first_cell[index + 1]) ++index;
  const size_t count = size_t(args.count);
  for (int first = 0; first < args.features; first += kWarp) {
    const int feature = first + lane;
    float w00 = 0.0f, w01 = 0.0f, w10 = 0.0f, w11 = 0.0f;
    for (int k = begin + warp; k < end; k += kWarps) {
      const size_t place = size_t(args.order[k]), i = place - index * count;
      float point[4];
      point_of(args, i, point);
      const PlaneCells c = cells_of(args, index, point);
      const float g = feature < args.features ? args.v_samples[place * args.features + feature] : 0.0f;
      const float right = c.x.weight * g, left = g - right;
      w00 = fmaf(1.0f - c.y.weight, left, w00), w01 = fmaf(1.0f - c.y.weight, right, w01);
      w10 = fmaf(c.y.weight, left, w10), w11 = fmaf(c.y.weight, right, w11);
    }
    sums[threadIdx.x] = w00, sums[kThreads + threadIdx.x] = w01;
    sums[2 * kThreads + threadIdx.x] = w10, sums[3 * kThreads + threadIdx.x] = w11;
    __syncthreads();
    float sum = 0.0f;  // a warp per corner
    for (int w = 0; w < kWarps; ++w) sum += sums[warp * kThreads + w * kWarp + lane];
    if (feature < args.features) args.corners[(size_t(cell) * 4 + warp) * args.features + feature] = sum;
    __syncthreads();
  }
}

// A thread per value of the planes.
NFC_KERNEL(hexplane_planes_backward, nfc::HexPlaneArgs, nfc::kThreads) {
  using namespace nfc;
  const size_t k = size_t(blockIdx.x) * kThreads + threadIdx.x;
  const int place = int(k / args.features), feature = int(k % args.features), planes = kPlanes * args.levels;
  if (place >= args.first_cell[planes]) return;
  int index = 0;
  while (place >= args.first_cell[index + 1]) ++index;
  const int columns = args.columns[index], at = place - args.first_cell[index];
  float sum = 0.0f;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int row = at / columns - corner / 2, column = at % columns - corner % 2;
    if (row < 0 || column < 0) continue;
    const int cell = args.first_cell[index] + row * columns + column;
    if (args.cell_begin[cell] == args.cell_begin[cell + 1]) continue;
    sum += args.corners[(size_t(cell) * 4 + corner) * args.features + feature];
  }
  args.v_planes[index][size_t(at) * args.features + feature] += sum;
}

namespace nfc {

// `PlaneArgs` of nfc_gs/ops/kernel_args.py is the same struct: the gradient of a plane's regularisers, which are half
// the weight times the sum of squared differences of neighbours along columns (tv_columns) and rows (tv_rows), half the
// weight times the sum of squared second differences along rows (smoothness), and the weight times the sum of |value -
// 1| (sparsity).
struct PlaneArgs {
  const float* plane;  // [rows, columns, features]
  float* v_plane;      // added to
  int rows, width, features;  // width: columns * features
  float tv_columns, tv_rows, smoothness, sparsity;
};

}  // namespace nfc

NFC_KERNEL(plane_regularisers, nfc::PlaneArgs, nfc::kThreads) {
  using namespace nfc;
  const long long k = (long long)blockIdx.x * kThreads + threadIdx.x, width = args.width, step = args.features;
  if (k >= args.rows * width) return;
  const int row = int(k / width), column = int(k % width);
  const float* p = args.plane + k;
  const float here = p[0];
  const bool has[5] = {row >= 2, row >= 1, true, row + 1 < args.rows, row + 2 < args.rows};
  float g = 0.0f;
  if (column >= step) g += args.tv_columns * (here - p[-step]);
  if (column + step < width) g += args.tv_columns * (here - p[step]);
  if (has[1]) g += args.tv_rows * (here - p[-width]);
  if (has[3]) g += args.tv_rows * (here - p[width]);
  // d_k = p_(k-1) - 2 p_k + p_(k+1): a value is in up to three of them
  if (has[0]) g += args.smoothness * (p[-2 * width] - 2.0f * p[-width] + here);
  if (has[1] && has[3]) g -= 2.0f * args.smoothness * (p[-width] - 2.0f * here + p[width]);
  if (has[4]) g += args.smoothness * (here - 2.0f * p[width] + p[2 * width]);
  g += here > 1.0f ? args.sparsity : here < 1.0f ? -args.sparsity : 0.0f;
  args.v_plane[k] += g;
}
