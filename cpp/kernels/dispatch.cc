// Which table serves which instruction set.
#include "kernels/kernels.h"

namespace autoglm {

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAmxKernels;
#endif

const Kernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx2:
      return kAvx2Kernels;
    case Isa::kAvx512:
      return kAvx512Kernels;
    case Isa::kAmx:
      return kAmxKernels;
    case Isa::kScalar:
      break;
  }
#else
  static_cast<void>(isa);
#endif
  return kScalarKernels;
}

}  // namespace autoglm
