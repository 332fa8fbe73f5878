// One binary for every x86-64: each csrc/<op>/cpu.cpp is compiled once per instruction set (see CMakeLists.txt),
// inside namespace dgseg::DGSEG_ISA, and `pick` chooses at run time. DGSEG_ISA=baseline|avx2|avx512 in the
// environment lowers the choice (it never raises it above what the processor has).
//
// The variants share a process, so a template or inline function with external linkage that is emitted in two of
// them would be merged by the linker, and the AVX-512 copy could end up running on a machine without it.
// Everything in a cpu.cpp besides its entry points therefore lives in an anonymous namespace, and std:: templates
// that are not trivially inlined are avoided; tests/test_build.py checks the object files for weak symbols.
#pragma once

namespace dgseg {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

Isa current_isa();
const char* isa_name(Isa isa);

}  // namespace dgseg

#if defined(DGSEG_X86_VARIANTS)
#define DGSEG_DECLARE_KERNEL(name, ...)          \
  namespace baseline { void name(__VA_ARGS__); } \
  namespace avx2 { void name(__VA_ARGS__); }     \
  namespace avx512 { void name(__VA_ARGS__); }
#define DGSEG_PICK(name)                                          \
  (::dgseg::current_isa() == ::dgseg::Isa::avx512 ? &avx512::name \
   : ::dgseg::current_isa() == ::dgseg::Isa::avx2 ? &avx2::name   \
                                                  : &baseline::name)
#else
#define DGSEG_DECLARE_KERNEL(name, ...) \
  namespace baseline { void name(__VA_ARGS__); }
#define DGSEG_PICK(name) (&baseline::name)
#endif
