# Tests on emulated processor types: the paths each one has, and that the kernels run there.
# Those labelled "chips" take minutes and run in `make test-chips` only.

find_program(AUTOGLM_QEMU qemu-${CMAKE_SYSTEM_PROCESSOR})

# Whatever path the run as a whole is limited to, a type is tested with its own.
function(add_chip_test name)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT AUTOGLM_ISA=)
endfunction()

function(add_chip_tests cpu options isas)
  set(emulator ${AUTOGLM_QEMU} -cpu ${cpu}${options})
  add_chip_test(isas_of_${cpu} ${emulator} $<TARGET_FILE:cpu_features_test> ${isas})
  add_chip_test(slice_on_${cpu} ${emulator} $<TARGET_FILE:kernels_test> slice)
  add_chip_test(kernels_on_${cpu} ${emulator} $<TARGET_FILE:kernels_test>)
  set_tests_properties(kernels_on_${cpu} PROPERTIES LABELS chips)
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64" AND AUTOGLM_QEMU)
  add_chip_tests(Nehalem "" "scalar")
  add_chip_tests(Haswell-noTSX ",-pcid,-x2apic,-tsc-deadline,-invpcid" "scalar avx2")
  # Wide vectors are slow to emulate: a minute.
  set_tests_properties(slice_on_Haswell-noTSX PROPERTIES LABELS chips)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64" AND AUTOGLM_QEMU)
  add_chip_tests(cortex-a57 "" "scalar neon")
  add_chip_tests(neoverse-n1 "" "scalar neon dotprod")
  # All other tests run on this one.
  add_chip_test(isas_of_max ${AUTOGLM_QEMU} $<TARGET_FILE:cpu_features_test>
                "scalar neon dotprod i8mm")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "riscv64" AND AUTOGLM_QEMU)
  add_chip_test(isas_of_riscv64 ${AUTOGLM_QEMU} $<TARGET_FILE:cpu_features_test> "scalar")
endif()
