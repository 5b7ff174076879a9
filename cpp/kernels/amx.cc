// placeholder while the path is being written
#include "kernels/kernels.h"
namespace autoglm {
extern const Kernels kScalarKernels;
extern const Kernels kAmxKernels;
const Kernels kAmxKernels = kScalarKernels;
}
