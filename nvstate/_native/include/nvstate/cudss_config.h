// A plan's options as cuDSS's configuration. No device is needed for one.

#ifndef NVSTATE_CUDSS_CONFIG_H_
#define NVSTATE_CUDSS_CONFIG_H_

#include <cstdint>
#include <string>

#include "nvstate/cudss.h"
#include "nvstate/solver.h"

namespace nvstate::cudss {

class Config {
 public:
  // `batch` 0: not a uniform batch. `device_bytes` are what a share of the memory is of.
  Config(const solver::Options& options, int64_t batch, int64_t device_bytes);
  ~Config() { api_.cudssConfigDestroy(config_); }
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;

  operator abi::cudssConfig_t() const { return config_; }  // NOLINT(google-explicit-constructor)

  void SetSteps(int64_t steps);         // of refinement; this and the next two hold from the next
  void SetTransposed(bool transposed);  // solve on
  void SetElement(int64_t element);     // of a uniform batch; -1: all

  std::string Json() const;  // everything, as the library gives it back

 private:
  template <typename T>
  void Set(abi::cudssConfigParam_t parameter, T value, const char* name);
  void SetAll(const solver::Options& options, int64_t batch, int64_t device_bytes);

  const Api& api_ = Opened<Api>();
  abi::cudssConfig_t config_ = nullptr;
  // What is set already: a call into the library for each solve is saved.
  int64_t steps_ = 0;
  bool transposed_ = false;
  int64_t element_ = -1;
};

bool IsColamd(const solver::Options& options);
abi::cudssMatrixType_t MatrixTypeOf(solver::MatrixType type);
abi::cudssMatrixViewType_t MatrixViewOf(solver::View view);

}  // namespace nvstate::cudss

#endif  // NVSTATE_CUDSS_CONFIG_H_
