// How alike two images are.

#include "../cpu/metrics.h"

#include "bindings.h"

namespace {

using Image = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;  // of any dtype
using Counted = std::optional<nb::ndarray<const bool, nb::c_contig, nb::device::cpu>>;

nfc::ImageValues values_of(const Image& image, int height, int width, const char* name) {
  check(image, {size_t(height), size_t(width), 3}, name);
  if (image.dtype() == nb::dtype<uint8_t>()) return {image.data(), nfc::ValueType::kByte};
  if (image.dtype() == nb::dtype<float>()) return {image.data(), nfc::ValueType::kFloat};
  if (image.dtype() == nb::dtype<double>()) return {image.data(), nfc::ValueType::kDouble};
  throw nb::type_error((std::string(name) + " is neither uint8 nor float32 nor float64").c_str());
}

nfc::SimilarityJob similarity_job(const Image& x, const Image& y, const Counted& counted) {
  nfc::SimilarityJob job{};
  job.height = axis(x, 0, 3, "x"), job.width = axis(x, 1, 3, "x");
  job.x = values_of(x, job.height, job.width, "x"), job.y = values_of(y, job.height, job.width, "y");
  if (counted) {
    check(*counted, {size_t(job.height), size_t(job.width)}, "counted");
    job.counted = reinterpret_cast<const uint8_t*>(counted->data());
  }
  return job;
}

double squared_error(Image x, Image y, Counted counted) {
  const nfc::SimilarityJob job = similarity_job(x, y, counted);
  nb::gil_scoped_release release;
  return nfc::squared_error(job);
}

double ssim(Image x, Image y, Counted counted, const std::vector<double>& window, double c1, double c2) {
  nfc::SimilarityJob job = similarity_job(x, y, counted);
  if (window.size() != NFC_SSIM_WINDOW) throw std::invalid_argument("the window has 11 weights");
  if (job.height < NFC_SSIM_WINDOW || job.width < NFC_SSIM_WINDOW)
    throw std::invalid_argument("x is smaller than the window");
  for (int k = 0; k < NFC_SSIM_WINDOW; ++k) job.window[k] = window[size_t(k)];
  job.c1 = c1, job.c2 = c2;
  nb::gil_scoped_release release;
  return nfc::similarity(job);
}

}  // namespace

void bind_metrics(nb::module_& m) {
  m.def("squared_error", &squared_error, array("x"), array("y"), array("counted").none());
  m.def("ssim", &ssim, array("x"), array("y"), array("counted").none(), nb::arg("window"), nb::arg("c1"),
        nb::arg("c2"));
}
