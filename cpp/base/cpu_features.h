// What this processor can run, and which kernel path to use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace autoglm {

// Ordered: within a processor family a later path needs everything the earlier ones need.
enum class Isa { kScalar, kAvx2, kAvx512, kAmx, kNeon, kDotprod, kI8mm };

struct CpuFeatures {
  bool avx2_fma = false;       // AVX2, FMA and F16C, saved by the operating system
  bool avx512_vnni = false;    // AVX-512 F, BW, VL, DQ and VNNI
  bool avx512_vbmi2 = false;   // and AVX-512 VBMI2
  bool amx_int8_bf16 = false;  // AMX tiles, int8 and bf16, permitted by the kernel
  bool neon = false;           // Advanced SIMD of ARMv8
  bool dotprod = false;        // sdot and udot
  bool i8mm = false;           // int8 matrix products, with dotprod
  std::string vendor;
};

// Probed once; asks the kernel for permission to use AMX tiles (ARCH_REQ_XCOMP_PERM).
const CpuFeatures& cpu_features();

std::string_view isa_name(Isa isa);

// Paths that run here, slowest first.
std::vector<Isa> supported_isas();

// `name` is "" for the best path, else one of scalar, avx2, avx512, amx, neon, dotprod, i8mm. An
// empty name falls back to the environment variable AUTOGLM_ISA. Throws Error(kArgumentError) when
// unknown or not supported here.
Isa select_isa(std::string_view name);

// Physical cores this process may run on (affinity mask, hyper-threads counted once); at least 1.
int num_physical_cores();

}  // namespace autoglm
