// Adam, and the exploration noise of MCMC.

#include "../cpu/optimize.h"

#include "bindings.h"

namespace {

// beta1 and beta2 in double precision, so that 1 - beta is rounded once; the corrections are 1 / (1 - beta^t).
void make_constants(nfc::AdamConstants* self, double beta1, double beta2, float epsilon, float correction1,
                    float correction2, int step) {
  new (self) nfc::AdamConstants{float(beta1), float(beta2), float(1.0 - beta1), float(1.0 - beta2),
                                epsilon,      correction1,  correction2,        step};
}

void adam(Floats value, Floats gradient, const Moments& first, const Moments& second,
          std::optional<Array<bool>> visible, const std::vector<float>& rates, const nfc::AdamConstants& constants) {
  nfc::AdamJob job{};
  job.columns = int(rates.size());
  if (job.columns == 0 || value.size() % rates.size() || value.size() / rates.size() > kMaxAxis)
    throw std::invalid_argument("rates do not fit the values");
  job.rows = int(value.size() / rates.size());
  check_size(gradient, value.size(), "gradient"), check(visible, {size_t(job.rows)}, "visible");
  set_moments(job, first, second, value.size());
  job.value = value.data(), job.gradient = gradient.data();
  job.visible = visible ? reinterpret_cast<const uint8_t*>(visible->data()) : nullptr;
  job.rates = rates.data(), job.constants = constants;
  nb::gil_scoped_release release;
  nfc::adam_step(job);
}

void mcmc_noise(Floats means, Floats quats, Floats log_scales, Floats opacity_logits, float strength, float sharpness,
                float threshold, uint64_t seed, uint64_t step) {
  const size_t n = size_t(axis(means, 0, 2, "means"));
  check(means, {n, 3}, "means"), check(quats, {n, 4}, "quats"), check(log_scales, {n, 3}, "log_scales");
  check(opacity_logits, {n}, "opacity_logits");
  nb::gil_scoped_release release;
  nfc::mcmc_noise(int(n), means.data(), quats.data(), log_scales.data(), opacity_logits.data(), strength, sharpness,
                  threshold, seed, step);
}

}  // namespace

void bind_optimize(nb::module_& m) {
  nb::class_<nfc::AdamConstants>(m, "AdamConstants")
      .def("__init__", &make_constants, nb::arg("beta1"), nb::arg("beta2"), nb::arg("epsilon"), nb::arg("correction1"),
           nb::arg("correction2"), nb::arg("step"));
  m.def("adam", &adam, array("value"), array("gradient"), array("first"),
        array("second"), array("visible").none(), nb::arg("rates"), nb::arg("constants"));
  m.def("mcmc_noise", &mcmc_noise, array("means"), array("quats"), array("log_scales"),
        array("opacity_logits"), nb::arg("strength"), nb::arg("sharpness"), nb::arg("threshold"), nb::arg("seed"),
        nb::arg("step"));
}
