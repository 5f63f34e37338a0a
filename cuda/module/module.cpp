// The Python module nfc_gs._core: its functions check and unpack arrays, release the GIL and call the CPU core.

#include <nanobind/stl/string.h>

#include "../cpu/dispatch.h"
#include "../cpu/parallel.h"
#include "../cpu/stages.h"
#include "../include/nfc_gs/bits.h"
#include "bindings.h"

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // autograd graphs may keep objects of ours until the process ends
  bind_loss(m);
  bind_metrics(m);
  bind_optimize(m);
  bind_render(m);
  bind_deformation(m);
  m.def("place_values", [] {
    std::vector<float> values;
    for (int bit = 0; bit < nfc::kBits; ++bit) values.push_back(nfc::place_value(bit));
    return values;
  });
  m.def("blend_ceiling", [](int splats, int repeats) {
    nb::gil_scoped_release release;
    return nfc::kernels().blend_ceiling(splats, repeats);
  });
  m.def("stage_seconds", [] {
    nb::dict seconds;
    for (int stage = 0; stage < nfc::kStages; ++stage)
      seconds[nfc::kStageNames[stage]] = nfc::stage_seconds(nfc::Stage(stage));
    return seconds;
  });
  m.def("set_threads", &nfc::set_thread_count);
  m.def("threads", &nfc::thread_count);
  m.def("instruction_set", [] { return std::string(nfc::kernels().name); });
  m.def("use_instruction_set", [](const std::string& name) { return nfc::use_kernels(name.c_str()); });
}
