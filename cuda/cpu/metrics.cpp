#include "metrics.h"

#include <functional>
#include <vector>

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"

namespace nfc {
namespace {

// The sum of `part` over pieces of `rows` rows, which are added in their order.
double sum_over_rows(int rows, const std::function<double(int, int)>& part) {
  constexpr int kRows = 64;
  std::vector<double> sums(size_t(pieces_of(rows, kRows)));
  parallel_ranges(rows, kRows, [&](int begin, int end) { sums[size_t(begin / kRows)] = part(begin, end); });
  double total = 0.0;
  for (double sum : sums) total += sum;
  return total;
}

}  // namespace

double squared_error(const SimilarityJob& job) {
  const Kernels& k = kernels();
  return sum_over_rows(job.height, [&](int begin, int end) { return k.squared_error(job, begin, end); });
}

double similarity(const SimilarityJob& job) {
  const Kernels& k = kernels();
  return sum_over_rows(job.height - (NFC_SSIM_WINDOW - 1), [&](int begin, int end) {
    static thread_local Buffer<double> ring;
    return k.similarity(job, begin, end, ring.reserve(kRingValues));
  });
}

}  // namespace nfc
