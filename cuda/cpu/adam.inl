// Adam (Kingma and Ba 2015, algorithm 1) over the rows of visible Gaussians, with a learning rate per column.

static inline void adam_value(const AdamJob& job, size_t at, float rate) {
  const float g = job.gradient[at];
  const float m = job.beta1 * job.first[at] + job.gain1 * g;
  const float v = job.beta2 * job.second[at] + job.gain2 * g * g;
  job.first[at] = m, job.second[at] = v;
  job.value[at] -= rate * (m * job.correction1) / (sqrtf(v * job.correction2) + job.epsilon);
}

// One vector of values; lanes where `keep` is set stay as they are.
template <bool Keep>
static inline void adam_vector(const AdamJob& job, size_t at, Vf rate, Mask keep) {
  const auto put = [&](float* where, Vf now, Vf before) { store(where + at, Keep ? select(keep, before, now) : now); };
  const Vf g = load(job.gradient + at), old_m = load(job.first + at), old_v = load(job.second + at);
  const Vf old = load(job.value + at);
  const Vf m = job.beta1 * old_m + job.gain1 * g;
  const Vf v = job.beta2 * old_v + job.gain2 * g * g;
  put(job.first, m, old_m), put(job.second, v, old_v);
  put(job.value, old - rate * (m * job.correction1) / (square_root(v * job.correction2) + job.epsilon), old);
}

// Wide rows that are no whole number of vectors: their last values come first, in a vector that overlaps the ones after
// it and leaves what these will move alone.
static void adam(const AdamJob& job, int begin, int end) {
  const int rest = job.columns % kLanes, tail = job.columns - kLanes;
  alignas(64) float kept[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) kept[lane] = lane < kLanes - rest ? 1.0f : 0.0f;
  const Mask keep = load(kept) > Vf{};
  const bool overlaps = rest && tail > 0;
  for (int row = begin; row < end; ++row) {
    if (job.visible && !job.visible[row]) continue;
    const size_t first = size_t(row) * job.columns;
    if (overlaps) adam_vector<true>(job, first + tail, load(job.rates + tail), keep);
    int column = 0;
    for (; column + kLanes <= job.columns; column += kLanes)
      adam_vector<false>(job, first + column, load(job.rates + column), keep);
    if (overlaps) continue;
    for (; column < job.columns; ++column) adam_value(job, first + column, job.rates[column]);
  }
}
