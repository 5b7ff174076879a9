#include "base/cpu_features.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace autoglm {
namespace {

#if defined(__x86_64__)

struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidLeaf r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

uint64_t xgetbv0() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool bit(uint32_t word, int index) { return (word >> index) & 1u; }

bool request_amx_permission() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtileData) == 0;
}

CpuFeatures probe() {
  CpuFeatures features;
  const CpuidLeaf leaf0 = cpuid(0, 0);
  char vendor[13] = {};
  std::memcpy(vendor, &leaf0.ebx, 4);
  std::memcpy(vendor + 4, &leaf0.edx, 4);
  std::memcpy(vendor + 8, &leaf0.ecx, 4);
  features.vendor = vendor;
  const CpuidLeaf leaf1 = cpuid(1, 0);
  const bool has_osxsave = bit(leaf1.ecx, 27);
  if (!has_osxsave || leaf0.eax < 7) return features;
  const uint64_t saved_state = xgetbv0();
  const bool saves_ymm = (saved_state & 0x6) == 0x6;
  const bool saves_zmm = (saved_state & 0xe6) == 0xe6;
  const bool saves_tiles = (saved_state & 0x60000) == 0x60000;
  const CpuidLeaf leaf7 = cpuid(7, 0);
  features.avx2_fma = saves_ymm && bit(leaf7.ebx, 5) && bit(leaf1.ecx, 12) && bit(leaf1.ecx, 29);
  features.avx512_vnni = features.avx2_fma && saves_zmm && bit(leaf7.ebx, 16) &&
                         bit(leaf7.ebx, 17) && bit(leaf7.ebx, 30) && bit(leaf7.ebx, 31) &&
                         bit(leaf7.ecx, 11);
  features.avx512_vbmi2 = features.avx512_vnni && bit(leaf7.ecx, 6);
  const bool has_amx = bit(leaf7.edx, 22) && bit(leaf7.edx, 24) && bit(leaf7.edx, 25);
  features.amx_int8_bf16 =
      features.avx512_vnni && saves_tiles && has_amx && request_amx_permission();
  return features;
}

#elif defined(__aarch64__)

// Bits of the kernel's ABI (Documentation/arch/arm64/elf_hwcaps.rst), which older libc headers
// lack.
CpuFeatures probe() {
  constexpr unsigned long kHwcapAsimd = 1ul << 1, kHwcapAsimdDp = 1ul << 20;
  constexpr unsigned long kHwcap2I8mm = 1ul << 13;
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  CpuFeatures features;
  features.neon = (hwcap & kHwcapAsimd) != 0;
  features.dotprod = features.neon && (hwcap & kHwcapAsimdDp) != 0;
  features.i8mm = features.dotprod && (hwcap2 & kHwcap2I8mm) != 0;
  return features;
}

#else

CpuFeatures probe() { return {}; }

#endif

constexpr std::pair<Isa, std::string_view> kIsaNames[] = {
    {Isa::kScalar, "scalar"}, {Isa::kAvx2, "avx2"}, {Isa::kAvx512, "avx512"},
    {Isa::kAmx, "amx"},       {Isa::kNeon, "neon"}, {Isa::kDotprod, "dotprod"},
    {Isa::kI8mm, "i8mm"}};

std::string names_of(const std::vector<Isa>& isas) {
  std::string names;
  for (const Isa isa : isas) {
    if (!names.empty()) names += ", ";
    names += isa_name(isa);
  }
  return names;
}

std::string all_names() {
  std::vector<Isa> isas;
  for (const auto& [isa, name] : kIsaNames) isas.push_back(isa);
  return names_of(isas);
}

// "package:core" of a logical processor, or its own number where the kernel does not say.
std::string core_key(int cpu) {
  const std::string base = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
  std::ifstream package(base + "physical_package_id"), core(base + "core_id");
  std::string package_id, core_id;
  if (package >> package_id && core >> core_id) return package_id + ":" + core_id;
  return "cpu" + std::to_string(cpu);
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = probe();
  return features;
}

std::string_view isa_name(Isa isa) { return kIsaNames[static_cast<int>(isa)].second; }

std::vector<Isa> supported_isas() {
  const CpuFeatures& features = cpu_features();
  std::vector<Isa> isas = {Isa::kScalar};
  if (features.avx2_fma) isas.push_back(Isa::kAvx2);
  if (features.avx512_vnni) isas.push_back(Isa::kAvx512);
  if (features.amx_int8_bf16) isas.push_back(Isa::kAmx);
  if (features.neon) isas.push_back(Isa::kNeon);
  if (features.dotprod) isas.push_back(Isa::kDotprod);
  if (features.i8mm) isas.push_back(Isa::kI8mm);
  return isas;
}

Isa select_isa(std::string_view name) {
  const std::vector<Isa> isas = supported_isas();
  if (name.empty()) {
    const char* forced = std::getenv("AUTOGLM_ISA");
    if (forced == nullptr || *forced == '\0') return isas.back();
    name = forced;
  }
  for (const auto& [isa, isa_text] : kIsaNames) {
    if (isa_text != name) continue;
    if (std::find(isas.begin(), isas.end(), isa) != isas.end()) return isa;
    throw Error(kArgumentError, "instruction set '" + std::string(name) +
                                    "' is not supported by this processor; it has " +
                                    names_of(isas));
  }
  throw Error(kArgumentError,
              "unknown instruction set '" + std::string(name) + "'; use one of " + all_names());
}

int num_physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return std::max(1u, std::thread::hardware_concurrency());
  }
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) cores.insert(core_key(cpu));
  }
  return std::max(1, static_cast<int>(cores.size()));
}

}  // namespace autoglm
