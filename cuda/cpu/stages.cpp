#include "stages.h"

#include <atomic>
#include <cstdint>

namespace nfc {
namespace {

std::atomic<int64_t> stage_nanoseconds[kStages];

}  // namespace

const char* const kStageNames[kStages] = {"project", "bin",  "raster", "raster_backward", "project_backward",
                                          "loss",    "adam", "noise",  "hexplane",        "hexplane_backward",
                                          "network", "network_backward"};

double stage_seconds(Stage stage) { return 1e-9 * double(stage_nanoseconds[stage].load()); }

StageTimer::~StageTimer() {
  const auto spent = std::chrono::steady_clock::now() - start_;
  stage_nanoseconds[stage_] += std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
}

}  // namespace nfc
