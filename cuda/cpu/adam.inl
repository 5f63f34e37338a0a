// Adam (Kingma and Ba 2015, algorithm 1) over the rows of visible Gaussians, with a learning rate per column.

static inline void adam_value(const AdamJob& job, size_t at, float rate) {
  const float g = job.gradient[at];
  const float m = job.beta1 * job.first[at] + job.gain1 * g;
  const float v = job.beta2 * job.second[at] + job.gain2 * g * g;
  job.first[at] = m, job.second[at] = v;
  job.value[at] -= rate * (m * job.correction1) / (sqrtf(v * job.correction2) + job.epsilon);
}

static inline void adam_vector(const AdamJob& job, size_t at, Vf rate) {
  const Vf g = load(job.gradient + at);
  const Vf m = job.beta1 * load(job.first + at) + job.gain1 * g;
  const Vf v = job.beta2 * load(job.second + at) + job.gain2 * g * g;
  store(job.first + at, m), store(job.second + at, v);
  store(job.value + at,
        load(job.value + at) - rate * (m * job.correction1) / (square_root(v * job.correction2) + job.epsilon));
}

static void adam(const AdamJob& job, int begin, int end) {
  for (int row = begin; row < end; ++row) {
    if (job.visible && !job.visible[row]) continue;
    const size_t first = size_t(row) * job.columns;
    int column = 0;
    for (; column + kLanes <= job.columns; column += kLanes) adam_vector(job, first + column, load(job.rates + column));
    for (; column < job.columns; ++column) adam_value(job, first + column, job.rates[column]);
  }
}
