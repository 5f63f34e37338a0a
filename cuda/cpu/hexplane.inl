// Features of points in the planes of a HexPlane, forward and backward: bilinear in each plane, multiplied over the six
// planes of a level. A vector holds neighbouring features of one point.

// The four cells of a plane around a point.
struct PlaneCells {
  size_t at;                // of the first of them, in floats
  size_t row, column;       // to the next row and column, in floats
  Cell x, y;                // along columns and rows
};

static inline PlaneCells plane_cells(const HexPlaneJob& job, int level, int plane, const float* point) {
  const int index = kPlanes * level + plane, columns = job.columns[index];
  PlaneCells c;
  c.x = cell_of(point[kPlaneColumn[plane]], columns), c.y = cell_of(point[kPlaneRow[plane]], job.rows[index]);
  c.column = size_t(job.features), c.row = c.column * size_t(columns);
  c.at = c.row * size_t(c.y.first) + c.column * size_t(c.x.first);
  return c;
}

static inline void point_of(const HexPlaneJob& job, int i, float* point) {
  for (int axis = 0; axis < 3; ++axis) point[axis] = job.coords[3 * size_t(i) + axis];
  point[kTimeAxis] = job.time;
}

static void hexplane(const HexPlaneJob& job, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    float point[4];
    point_of(job, i, point);
    for (int level = 0; level < job.levels; ++level) {
      float* out = job.out + (size_t(i) * job.levels + level) * job.features;
      PlaneCells cells[kPlanes];
      for (int p = 0; p < kPlanes; ++p) cells[p] = plane_cells(job, level, p, point);
      for (int f = 0; f < job.features; f += kLanes) {
        Vf product = broadcast(1.0f);
        for (int p = 0; p < kPlanes; ++p) {
          const PlaneCells& c = cells[p];
          const float* a = job.planes[kPlanes * level + p] + c.at + f;
          const Vf low = load(a) + c.x.weight * (load(a + c.column) - load(a));
          const Vf high = load(a + c.row) + c.x.weight * (load(a + c.row + c.column) - load(a + c.row));
          product = product * (low + c.y.weight * (high - low));
        }
        store(out + f, product);
      }
    }
  }
}

// Gradients of the coordinates, and of what each plane gave for each point, kept in `v_found` [6 levels, points, F].
static void hexplane_backward(const HexPlaneJob& job, int begin, int end) {
  const size_t stride = size_t(job.block) * job.features;
  for (int i = begin; i < end; ++i) {
    float point[4], v_point[4] = {};
    point_of(job, i, point);
    for (int level = 0; level < job.levels; ++level) {
      const float* v_out = job.v_out + (size_t(i) * job.levels + level) * job.features;
      float* v_found = job.v_found + kPlanes * level * stride + size_t(i - job.block_begin) * job.features;
      PlaneCells cells[kPlanes];
      for (int p = 0; p < kPlanes; ++p) cells[p] = plane_cells(job, level, p, point);
      Vf v_x[kPlanes] = {}, v_y[kPlanes] = {};
      for (int f = 0; f < job.features; f += kLanes) {
        Vf found[kPlanes], slope_x[kPlanes], slope_y[kPlanes];
        for (int p = 0; p < kPlanes; ++p) {
          const PlaneCells& c = cells[p];
          const float* a = job.planes[kPlanes * level + p] + c.at + f;
          const Vf step = load(a + c.column) - load(a), next = load(a + c.row + c.column) - load(a + c.row);
          const Vf low = load(a) + c.x.weight * step, high = load(a + c.row) + c.x.weight * next;
          found[p] = low + c.y.weight * (high - low);
          slope_x[p] = step + c.y.weight * (next - step), slope_y[p] = high - low;
        }
        Vf others[kPlanes];  // the product of the planes before; then of all others
        Vf product = load(v_out + f);
        for (int p = 0; p < kPlanes; ++p) others[p] = product, product = product * found[p];
        product = broadcast(1.0f);
        for (int p = kPlanes - 1; p >= 0; --p) others[p] = others[p] * product, product = product * found[p];
        for (int p = 0; p < kPlanes; ++p) {
          store(v_found + p * stride + f, others[p]);
          v_x[p] = v_x[p] + others[p] * slope_x[p], v_y[p] = v_y[p] + others[p] * slope_y[p];
        }
      }
      for (int p = 0; p < kPlanes; ++p) {
        v_point[kPlaneColumn[p]] += sum_lanes(v_x[p]) * cells[p].x.slope;
        v_point[kPlaneRow[p]] += sum_lanes(v_y[p]) * cells[p].y.slope;
      }
    }
    for (int axis = 0; axis < 3; ++axis) job.v_coords[3 * size_t(i) + axis] = v_point[axis];
  }
}

// Adds the gradients of a block of points to one plane, point after point: the sum's order is fixed.
static void hexplane_scatter(const HexPlaneJob& job, int index) {
  const int level = index / kPlanes, plane = index % kPlanes;
  const float* v_found = job.v_found + size_t(index) * job.block * job.features;
  for (int i = job.block_begin; i < job.block_end; ++i, v_found += job.features) {
    float point[4];
    point_of(job, i, point);
    const PlaneCells c = plane_cells(job, level, plane, point);
    const float wx = c.x.weight, wy = c.y.weight;
    const float w00 = (1.0f - wx) * (1.0f - wy), w01 = wx * (1.0f - wy), w10 = (1.0f - wx) * wy, w11 = wx * wy;
    float* a = job.v_planes[index] + c.at;
    for (int f = 0; f < job.features; f += kLanes) {
      const Vf g = load(v_found + f);
      store(a + f, load(a + f) + w00 * g), store(a + c.column + f, load(a + c.column + f) + w01 * g);
      float* b = a + c.row;
      store(b + f, load(b + f) + w10 * g), store(b + c.column + f, load(b + c.column + f) + w11 * g);
    }
  }
}

// Adds the gradients of a plane's regularisers to those of one of its rows: squares of the differences between
// neighbours along columns and rows, squares of second differences along rows, and the distance from 1.
static void plane_regularisers(const PlaneJob& job, int row) {
  const int width = job.columns * job.features, step = job.features;
  const float* p = job.plane + size_t(row) * width;
  float* v = job.v_plane + size_t(row) * width;
  const auto above = [&](int k) { return p + ptrdiff_t(k) * width; };  // the row k rows further, if it is there
  const bool has[5] = {row >= 2, row >= 1, true, row + 1 < job.rows, row + 2 < job.rows};
  for (int i = 0; i < width; i += kLanes) {
    const Vf here = load(p + i);
    Vf g = Vf{};
    if (job.along_columns != 0.0f) {
      if (i >= step) g = g + job.along_columns * (here - load(p + i - step));
      if (i + step < width) g = g + job.along_columns * (here - load(p + i + step));
    }
    if (job.along_rows != 0.0f) {
      if (has[1]) g = g + job.along_rows * (here - load(above(-1) + i));
      if (has[3]) g = g + job.along_rows * (here - load(above(1) + i));
    }
    if (job.bend != 0.0f) {  // d_k = p_(k-1) - 2 p_k + p_(k+1): a row is in up to three of them
      if (has[0]) g = g + job.bend * (load(above(-2) + i) - 2.0f * load(above(-1) + i) + here);
      if (has[1] && has[3]) g = g - (2.0f * job.bend) * (load(above(-1) + i) - 2.0f * here + load(above(1) + i));
      if (has[4]) g = g + job.bend * (here - 2.0f * load(above(1) + i) + load(above(2) + i));
    }
    if (job.from_one != 0.0f) {
      const Vf one = broadcast(1.0f), zero = Vf{};
      const Vf sign = select(here > one, broadcast(job.from_one), select(here < one, broadcast(-job.from_one), zero));
      g = g + sign;
    }
    store(v + i, load(v + i) + g);
  }
}
