// The operators under torch's dispatcher, and what the loader in __init__.py
// asks of the library. Loading it registers nothing: what it was built from
// and what this CPU can run are looked at before.

#include <torch/library.h>

#include <cstdlib>
#include <string>

#include "kernels.h"
#include "operators.h"

namespace mmrfa {

// MMRFA_AVX512=0 is for tests of the other kernels.
bool has_avx512() {
  static const bool found = [] {
    const char* wish = std::getenv("MMRFA_AVX512");
    return (wish == nullptr || std::string(wish) != "0") &&
           __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
  }();
  return found;
}

}  // namespace mmrfa

extern "C" {

const char* mmrfa_sources() { return MMRFA_SOURCES; }

// Empty: no kernel can run here.
const char* mmrfa_instruction_set() {
  if (mmrfa::has_avx512()) return "avx512";
  const bool old = __builtin_cpu_supports("avx2") &&
                   __builtin_cpu_supports("fma");
  return old ? "avx2" : "";
}

int mmrfa_most_taps() { return mmrfa::kMostTaps; }

// at::parallel_for is serial, silently, in code compiled without OpenMP.
int mmrfa_uses_threads() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

// Returns what is wrong; empty: nothing.
const char* mmrfa_register() {
  static std::string error;
  try {
    static torch::Library library(torch::Library::IMPL, "mmrfa",
                                  c10::DispatchKey::CPU, __FILE__, __LINE__);
#define MMRFA_REGISTER(name) library.impl(#name, TORCH_FN(mmrfa::name))
    MMRFA_REGISTER(rf_conv);
    MMRFA_REGISTER(rf_conv_backward);
    MMRFA_REGISTER(rf_channel_pool);
    MMRFA_REGISTER(rf_channel_pool_backward);
    MMRFA_REGISTER(rf_line_pool);
    MMRFA_REGISTER(rf_line_pool_backward);
    MMRFA_REGISTER(rf_moments);
    MMRFA_REGISTER(rf_moments_backward);
#undef MMRFA_REGISTER
  } catch (const std::exception& raised) {
    error = raised.what();
  }
  return error.c_str();
}

}  // extern "C"
