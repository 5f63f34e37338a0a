// How long the stages of a training step take.
#pragma once

#include <chrono>

namespace nfc {

enum Stage {
  kProject,
  kBin,
  kRaster,
  kRasterBackward,
  kProjectBackward,
  kLoss,
  kAdam,
  kNoise,
  kHexPlane,
  kHexPlaneBackward,
  kNetwork,
  kNetworkBackward,
  kStages
};

extern const char* const kStageNames[kStages];

// Seconds spent in a stage since the module was loaded, by all callers together (for tools/bench).
double stage_seconds(Stage stage);

// Adds the time from its construction to its destruction to a stage.
class StageTimer {
 public:
  explicit StageTimer(Stage stage) : stage_(stage), start_(std::chrono::steady_clock::now()) {}
  ~StageTimer();
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  Stage stage_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace nfc
