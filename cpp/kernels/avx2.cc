// placeholder while the path is being written
#include "kernels/kernels.h"
namespace autoglm {
extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = kScalarKernels;
}
