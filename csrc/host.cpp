// The module dgseg._host. Each csrc/<thing>/host.cpp defines one bind function and is listed here.
#include <pybind11/pybind11.h>

namespace dgseg {
void bind_hardness_table(pybind11::module_& module);
void bind_photometric(pybind11::module_& module);
void bind_shared_rows(pybind11::module_& module);
void bind_streets(pybind11::module_& module);
}  // namespace dgseg

PYBIND11_MODULE(_host, module) {
  module.doc() = "Native structures and renderers of dgseg that are no tensor operators.";
  dgseg::bind_hardness_table(module);
  dgseg::bind_photometric(module);
  dgseg::bind_shared_rows(module);
  dgseg::bind_streets(module);
}
