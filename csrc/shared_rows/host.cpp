// dgseg._host.SharedRows: rows as numpy arrays, the interpreter's lock released while the others are awaited.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "rows.h"

namespace py = pybind11;

namespace dgseg {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;

void gather(SharedRows& rows, const Bytes& row, Bytes& out, double timeout) {
  if (row.size() > rows.capacity())
    throw py::value_error("shared rows: a row has at most " + std::to_string(rows.capacity()) + " bytes");
  if (out.size() != rows.size() * row.size())
    throw py::value_error("shared rows: there are " + std::to_string(rows.size()) + " rows of " +
                          std::to_string(row.size()) + " bytes, and room for " + std::to_string(out.size()));
  const void* from = row.data();
  void* to = out.mutable_data();
  const int64_t bytes = row.size();
  py::gil_scoped_release released;
  rows.gather(from, bytes, to, timeout);
}

}  // namespace

void bind_shared_rows(py::module_& module) {
  py::class_<SharedRows>(module, "SharedRows")
      .def(py::init<int, int, const std::vector<int>&, int64_t>(), py::kw_only(), py::arg("file"), py::arg("rank"),
           py::arg("processes"), py::arg("capacity"))
      .def_static("bytes", &SharedRows::bytes, py::arg("size"), py::arg("capacity"))
      .def("gather", &gather, py::arg("row").noconvert(), py::arg("out").noconvert(), py::kw_only(),
           py::arg("timeout"));
}

}  // namespace dgseg
