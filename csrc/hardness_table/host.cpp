// dgseg._host.HardnessTable: numpy arrays in and out, every argument checked, the interpreter's lock released
// meanwhile.
#include "table.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>

namespace py = pybind11;

namespace dgseg {
namespace {

constexpr double kLargestScore = 1e100;

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

[[noreturn]] void refuse(const std::string& what) { throw py::value_error("hardness table: " + what); }

std::string text(double value) { return py::str(py::float_(value)); }

// Only losslessly: a float index or a complex loss is a mistake.
template <class T>
Array<T> vector_of(const py::object& given, const char* name, const char* kinds) {
  const py::array array = py::array::ensure(given);
  if (!array || array.ndim() != 1 || (array.size() && !std::strchr(kinds, array.dtype().kind())))
    refuse(std::string(name) + " must be a vector of " + (kinds[0] == 'i' ? "integers" : "numbers") +
           (array
                ? ", not " + std::string(py::str(array.dtype())) + " in " + std::to_string(array.ndim()) + " dimensions"
                : ""));
  return Array<T>::ensure(array);
}

Array<int64_t> images_of(const HardnessTable& table, const py::object& given) {
  auto images = vector_of<int64_t>(given, "indices", "iu");
  for (py::ssize_t i = 0; i < images.size(); ++i)
    if (images.data()[i] < 0 || images.data()[i] >= table.size())
      refuse("index " + std::to_string(images.data()[i]) + " at position " + std::to_string(i) +
             "; it holds images 0-" + std::to_string(table.size() - 1));
  return images;
}

std::unique_ptr<HardnessTable> make(int64_t size, double beta, double temperature) {
  if (size < 1 || size >= HardnessTable::kLargest)
    refuse("size " + std::to_string(size) + "; it must lie in 1-" + std::to_string(HardnessTable::kLargest - 1));
  if (!(beta >= 0 && beta < 1)) refuse("beta " + text(beta) + "; it must lie in [0, 1)");
  if (!(temperature >= 1e-9 && temperature <= 1e9))
    refuse("temperature " + text(temperature) + "; it must lie in 1e-9 to 1e9");
  py::gil_scoped_release released;
  return std::make_unique<HardnessTable>(size, beta, temperature);
}

void update(HardnessTable& table, const py::object& indices, const py::object& losses) {
  const auto images = images_of(table, indices);
  const auto values = vector_of<double>(losses, "losses", "fiu");
  if (images.size() != values.size())
    refuse(std::to_string(images.size()) + " indices came with " + std::to_string(values.size()) + " losses");
  for (py::ssize_t i = 0; i < values.size(); ++i)
    if (!(std::fabs(values.data()[i]) <= kLargestScore))
      refuse("loss " + text(values.data()[i]) + " of image " + std::to_string(images.data()[i]) +
             "; losses must be finite. Leave images without valid pixels out");
  py::gil_scoped_release released;
  table.update(images.data(), values.data(), values.size());
}

py::array_t<int64_t> draw(const HardnessTable& table, const py::object& given) {
  const auto uniform = vector_of<double>(given, "u", "f");
  for (py::ssize_t i = 0; i < uniform.size(); ++i)
    if (!(uniform.data()[i] >= 0 && uniform.data()[i] < 1))
      refuse("u holds " + text(uniform.data()[i]) + "; uniform numbers lie in [0, 1)");
  py::array_t<int64_t> images(uniform.size());
  int64_t* out = images.mutable_data();
  py::gil_scoped_release released;
  table.draw(uniform.data(), uniform.size(), out);
  return images;
}

py::array_t<double> probabilities(const HardnessTable& table, const py::object& indices) {
  const auto images = images_of(table, indices);
  py::array_t<double> found(images.size());
  double* out = found.mutable_data();
  py::gil_scoped_release released;
  for (py::ssize_t i = 0; i < images.size(); ++i) out[i] = table.probability(images.data()[i]);
  return found;
}

void restore(HardnessTable& table, const py::object& given, double scale, double offset) {
  const auto scores = vector_of<double>(given, "scores", "f");
  if (scores.size() != table.size())
    refuse(std::to_string(scores.size()) + " scores for a table of " + std::to_string(table.size()) + " images");
  for (py::ssize_t i = 0; i < scores.size(); ++i)
    if (std::fabs(scores.data()[i]) > kLargestScore)
      refuse("score " + text(scores.data()[i]) + " of image " + std::to_string(i) +
             " is not finite (NaN: not yet seen)");
  if (!(scale >= 1e-100 && scale <= kLargestScore && std::fabs(offset) <= kLargestScore))
    refuse("scale " + text(scale) + " and offset " + text(offset) + " are no state of a table");
  py::gil_scoped_release released;
  table.restore(scores.data(), scale, offset);
}

}  // namespace

void bind_hardness_table(py::module_& module) {
  py::class_<HardnessTable>(module, "HardnessTable",
                            "Scores of many images and the weighted draw p_i ∝ exp(h_i / temperature).")
      .def(py::init(&make), py::arg("size"), py::kw_only(), py::arg("beta") = 0.9, py::arg("temperature") = 1.0)
      .def("update", &update, py::arg("indices"), py::arg("losses"),
           "h <- beta h + (1 - beta) loss, in the order given; an image's first loss becomes its score.")
      .def("draw", &draw, py::arg("u"), "One image for each uniform number in [0, 1).")
      .def("probabilities", &probabilities, py::arg("indices"), "What `draw` draws them with.")
      .def("standardise", &HardnessTable::standardise, py::call_guard<py::gil_scoped_release>(),
           "Scores count by standard deviations of those seen, as they are now, until the next call.")
      .def(
          "scores", [](const HardnessTable& t) { return py::array_t<double>(t.size(), t.scores().data()); },
          "A copy; NaN: not yet seen.")
      .def("restore", &restore, py::arg("scores"), py::arg("scale"), py::arg("offset"),
           "Takes over another table's `scores()`, `scale` and `offset`: the same draws and updates from there on.")
      .def("__len__", &HardnessTable::size)
      .def_property_readonly("seen", &HardnessTable::seen)
      .def_property_readonly("mean", &HardnessTable::mean)
      .def_property_readonly("scale", &HardnessTable::scale)
      .def_property_readonly("offset", &HardnessTable::offset)
      .def_property_readonly("bytes", &HardnessTable::bytes);
}

}  // namespace dgseg
