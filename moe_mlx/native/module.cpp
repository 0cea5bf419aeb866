// What Python sees of it. Types of arrays are mlx's own (nanobind domain `mlx`), and so are the exceptions' translators:
// an error thrown on a stream reaches the caller of `mx.eval` as the exception that Python's reader would have raised.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "fetch.h"
#include "fetch_fault.h"
#include "fetch_rows.h"
#include "mlx/scheduler.h"
#include "mlx/version.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// Python objects are let go of only by threads that hold the GIL anyway, never by a stream: a stream that waits for the
// GIL while its holder waits for the stream is a deadlock.
std::mutex released_mutex;
std::vector<PyObject*> released;

std::shared_ptr<void> keep_alive(nb::object object) {
  return {object.release().ptr(), [](void* held) {
            std::lock_guard lock(released_mutex);
            released.push_back(static_cast<PyObject*>(held));
          }};
}

void let_go() {
  std::vector<PyObject*> dead;
  {
    std::lock_guard lock(released_mutex);
    dead.swap(released);
  }
  for (PyObject* object : dead) Py_DECREF(object);
}

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

struct Reader {
  std::shared_ptr<moe::Reader> reader;
};

struct Prefetcher {
  std::shared_ptr<moe::Prefetcher> prefetcher;
};

struct ModelStreams {
  std::shared_ptr<moe::ModelStreams> streams;
};

struct Layer {
  std::shared_ptr<moe::Bound> bound;
};

// Memory of a Python object, by the name that Python has for it.
template <typename T>
T* named(const nb::dict& addresses, const char* name) {
  return at<T>(nb::cast<uintptr_t>(addresses[name]));
}

moe::Table make_table(int experts, int slots, const moe::Eviction& evict, const nb::dict& addresses) {
  moe::Table table{};
  table.experts = experts, table.slots = slots, table.evict = evict;
  table.state = named<moe::TableState>(addresses, "state");
#define FIELD(type, name) table.name = named<type>(addresses, #name);
  MOE_TABLE_ARRAYS(FIELD)
#undef FIELD
  return table;
}

// How experts lie in their files: as moe_mlx/native/binding.py writes it down, words of 64 bits.
moe::Parts make_parts(const nb::object& given) {
  moe::Parts parts;
  if (given.is_none()) return parts;
  const auto found = nb::cast<nb::dict>(given);
  const auto words = [&](const char* name) {
    const auto bytes = nb::cast<nb::bytes>(found[name]);
    std::vector<int64_t> out(bytes.size() / sizeof(int64_t));
    std::memcpy(out.data(), bytes.c_str(), out.size() * sizeof(int64_t));
    return out;
  };
  const auto halves = words("halves"), placed = words("placed"), digested = words("digested");
  for (size_t i = 0; i + 2 < halves.size(); i += 3) {
    const moe::Halves how{int(halves[i]), int(halves[i + 1])};
    if (how.bits && !moe::Halves::known(how.bits, how.high)) throw std::invalid_argument("halves");
    parts.halves.push_back(how);
    parts.cut.push_back(char(halves[i + 2]));
  }
  for (size_t i = 0; i + 4 < placed.size(); i += 5)
    parts.placed.push_back({placed[i], placed[i + 1], placed[i + 2], placed[i + 3], placed[i + 4]});
  const auto names = nb::cast<std::vector<std::string>>(found["names"]);
  for (size_t i = 0; i < digested.size(); i++) parts.digested.push_back({names.at(i), digested[i]});
  parts.coarse_digests = nb::cast<size_t>(found["coarse_digests"]);
  parts.coarse_nbytes = nb::cast<int64_t>(found["coarse_nbytes"]);
  parts.bits = nb::cast<int>(found["bits"]), parts.nbytes = nb::cast<int64_t>(found["nbytes"]);
  return parts;
}

moe::Shelf make_shelf(int layer, std::vector<std::string> tensors, std::vector<int64_t> tensor_nbytes,
                      const std::vector<std::string>& paths, const std::vector<int64_t>& file_nbytes, nb::bytes ranges,
                      nb::bytes digests, int experts) {
  moe::Shelf shelf;
  shelf.layer = layer, shelf.experts = experts;
  shelf.tensors = std::move(tensors), shelf.tensor_nbytes = std::move(tensor_nbytes);
  for (size_t i = 0; i < paths.size(); i++) shelf.files.push_back({paths[i], file_nbytes.at(i)});
  const auto* triple = reinterpret_cast<const int64_t*>(ranges.c_str());
  for (size_t i = 0; i < ranges.size() / (3 * sizeof(int64_t)); i++, triple += 3)
    shelf.ranges.push_back({int(triple[0]), triple[1], triple[2]});
  shelf.digests.resize(digests.size() / sizeof(moe::Digest));
  std::memcpy(shelf.digests.data(), digests.c_str(), shelf.digests.size() * sizeof(moe::Digest));
  return shelf;
}

}  // namespace

NB_MODULE(_moe_mlx_native, m) {
  m.attr("MLX_VERSION") = std::to_string(MLX_VERSION_MAJOR) + "." + std::to_string(MLX_VERSION_MINOR) + "." +
                          std::to_string(MLX_VERSION_PATCH);
  nb::list event_fields;
  for (const char* name : moe::kEventFields) event_fields.append(name);
  m.attr("EVENT_FIELDS") = event_fields;
  m.attr("EVENT_ROWS") = int(moe::EventLog::kRows);
  nb::list table_state;
#define FIELD(type, name) table_state.append(nb::make_tuple(#name, moe::type_code<type>()));
  MOE_TABLE_STATE(FIELD)
#undef FIELD
  m.attr("TABLE_STATE") = table_state;
  nb::dict table_arrays;
#define FIELD(type, name) table_arrays[#name] = moe::type_code<type>();
  MOE_TABLE_ARRAYS(FIELD)
#undef FIELD
  m.attr("TABLE_ARRAYS") = table_arrays;
  m.attr("READ_DEPTHS") = int(moe::ReadLog::kDepths);
  m.attr("READ_BUCKETS") = int(moe::ReadLog::kBuckets);

  // Halves of codes in memory of Python's, contiguous and of the sizes that `bits` and `high` make of `nbytes`.
  const auto halves_function = [&](const char* name, void (*function)(const moe::Halves&, const char*, char*, int64_t)) {
    m.def(name, [function](int bits, int high, uintptr_t from, uintptr_t to, int64_t nbytes) {
      if (!moe::Halves::known(bits, high)) throw std::invalid_argument("halves");
      nb::gil_scoped_release nogil;
      function({bits, high}, at<char>(from), at<char>(to), nbytes);
    });
  };
  halves_function("high_of", moe::high_of);
  halves_function("lift", moe::lift);
  halves_function("complete", moe::complete);

  m.def("probe", [](const mlx::core::array& a) { return a.size(); });  // a TypeError: another ABI than mlx's

  nb::class_<moe::Policy>(m, "Policy")
      .def("__init__", [](moe::Policy* self, int kind, float lam, int top_j, int max_rank, double mass) {
        new (self) moe::Policy{moe::Kind(kind), lam, top_j, max_rank, mass};
      }, nb::kw_only(), "kind"_a, "lam"_a, "top_j"_a, "max_rank"_a, "mass"_a);

  nb::class_<moe::Eviction>(m, "Eviction")
      .def("__init__", [](moe::Eviction* self, int kind, double growth, double keep, double share, double gain) {
        new (self) moe::Eviction{moe::Eviction::Kind(kind), growth, keep, share, gain};
      }, nb::kw_only(), "kind"_a, "growth"_a, "keep"_a, "share"_a, "gain"_a);

  nb::class_<Reader>(m, "Reader")
      .def("__init__", [](Reader* self, int threads, const std::string& root, const std::string& way, int64_t memory,
                          int64_t block, int64_t bounce, uintptr_t log, nb::object keep) {
        const auto kind = way == "direct"    ? moe::Access::direct
                          : way == "dropped" ? moe::Access::dropped
                                             : moe::Access::cached;
        new (self) Reader{std::make_shared<moe::Reader>(threads, root, moe::Access{kind, memory, block, bounce},
                                                        moe::ReadLog{at<int64_t>(log), keep_alive(std::move(keep))})};
      }, nb::kw_only(), "threads"_a, "root"_a, "way"_a, "memory"_a, "block"_a, "bounce"_a, "log"_a, "keep"_a)
      .def("close", [](Reader& self) { self.reader->close(); })
      .def("outlive", [](Reader& self) { new auto(self.reader); })  // after a fork its threads cannot be joined
      .def_prop_ro("open_count", [](Reader& self) { return self.reader->open_count(); });

  nb::class_<Prefetcher>(m, "Prefetcher")
      .def("__init__", [](Prefetcher* self, const Reader& reader, int threads, int buffers, int64_t nbytes) {
        new (self) Prefetcher{std::make_shared<moe::Prefetcher>(reader.reader, threads, buffers, nbytes)};
      }, "reader"_a, "threads"_a, "buffers"_a, "nbytes"_a)
      .def("outlive", [](Prefetcher& self) { new auto(self.prefetcher); })
      .def("stop", [](Prefetcher& self, double seconds) {
        nb::gil_scoped_release nogil;
        return self.prefetcher->stop(seconds);
      });

  nb::class_<ModelStreams>(m, "ModelStreams")
      .def("__init__", [](ModelStreams* self) { new (self) ModelStreams{moe::ModelStreams::make()}; })
      .def_prop_ro("id", [](ModelStreams& self) { return self.streams->id; })
      .def_prop_ro("failed", [](ModelStreams& self) { return self.streams->fault.standing(); })
      .def_prop_ro("failed_step", [](ModelStreams& self) { return self.streams->fault.step(); })
      .def_prop_rw("apart", [](ModelStreams& self) { return self.streams->apart.load(); },
                   [](ModelStreams& self, bool apart) { self.streams->apart = apart; })
      .def("first", [](ModelStreams& self) -> nb::object {
        auto first = self.streams->fault.first();
        if (!first) return nb::none();
        return nb::make_tuple(first->layer, first->expert, first->path, first->reason);
      })
      .def("drain", [](ModelStreams& self) {
        {
          nb::gil_scoped_release nogil;
          self.streams->drain();
        }
        let_go();
      })
      .def("delivered", [](ModelStreams& self) { self.streams->delivered(); })
      .def("failed_by", [](ModelStreams& self, const mlx::core::array& after) {
        return moe::failed_by(self.streams, after);
      }, "after"_a);

  m.def("crossings", [](const std::vector<mlx::core::array>& outputs) {
    const auto found = moe::crossings(outputs);
    return nb::make_tuple(found.sent, found.awaited);
  }, "outputs"_a);
  m.def("active_tasks", [] { return mlx::core::scheduler::n_active_tasks(); });

  nb::class_<Layer>(m, "Layer")
      .def("__init__", [](Layer* self, const ModelStreams& streams, const Reader& reader, int layer,
                          std::vector<std::string> tensors, std::vector<int64_t> tensor_nbytes,
                          const std::vector<std::string>& paths, const std::vector<int64_t>& file_nbytes,
                          nb::bytes ranges, nb::bytes digests, int experts, int slots, const nb::dict& table, const moe::Eviction& evict,
                          const nb::dict& log, nb::list banks, double stall_seconds, nb::object parts,
                          nb::list narrower, nb::bytes form, nb::list low_banks, std::vector<int64_t> low_nbytes, int low, nb::object keep) {
        const moe::EventLog l{named<moe::Event>(log, "rows"), named<double>(log, "weights_moved"),
                              named<int64_t>(log, "written")};
        auto arrays = std::make_shared<std::vector<mlx::core::array>>();
        const auto memory_of = [&](const nb::list& given) {
          std::vector<char*> memory;
          for (auto bank : given) {
            arrays->push_back(nb::cast<mlx::core::array>(bank));
            memory.push_back(arrays->back().data<char>());
          }
          return memory;
        };
        auto memory = memory_of(banks), low_memory = memory_of(low_banks);
        auto shelf = make_shelf(layer, std::move(tensors), std::move(tensor_nbytes), paths, file_nbytes, ranges,
                                digests, experts);
        shelf.parts = make_parts(parts);
        for (auto one : narrower) shelf.narrower.push_back(make_parts(nb::borrow(one)));
        shelf.form.assign(form.c_str(), form.c_str() + form.size());
        auto residency = make_table(experts, slots, evict, table);
        if (low) {
          residency.low = low;
          residency.low_slots = {shelf.parts,           slots,      memory, shelf.tensor_nbytes,
                                 std::move(low_memory), low_nbytes};
        }
        auto core = std::make_unique<moe::Layer>(reader.reader, std::move(shelf), std::move(residency), l,
                                                 std::move(memory), arrays);
        core->stall_seconds = stall_seconds;
        new (self) Layer{std::make_shared<moe::Bound>(
            moe::Bound{streams.streams, std::move(core), keep_alive(std::move(keep))})};
      }, nb::kw_only(), "streams"_a, "reader"_a, "layer"_a, "tensors"_a, "tensor_nbytes"_a, "paths"_a, "file_nbytes"_a,
         "ranges"_a, "digests"_a, "experts"_a, "slots"_a, "table"_a, "evict"_a, "log"_a, "banks"_a,
         "stall_seconds"_a, "parts"_a.none(), "narrower"_a, "form"_a, "low_banks"_a, "low_nbytes"_a, "low"_a, "keep"_a)
      .def_prop_rw("stall_seconds", [](Layer& self) { return self.bound->layer->stall_seconds.load(); },
                   [](Layer& self, double seconds) { self.bound->layer->stall_seconds = seconds; })
      .def("reclaim", [](Layer& self) { self.bound->layer->reclaim(); },
           nb::call_guard<nb::gil_scoped_release>())
      .def("use", [](Layer& self, const Prefetcher& prefetcher) { self.bound->layer->use(prefetcher.prefetcher); })
      .def("drop_guess", [](Layer& self) {
        nb::gil_scoped_release nogil;
        self.bound->layer->drop_guess();
      })
      .def("decode", [](Layer& self, int64_t step, const moe::Policy& policy, const mlx::core::array& exact,
                        std::optional<mlx::core::array> scores, std::optional<mlx::core::array> raw,
                        std::optional<mlx::core::array> weigh, std::optional<mlx::core::array> weights,
                        std::optional<mlx::core::array> shares, std::optional<mlx::core::array> next_scores,
                        nb::object next, int late_rows, double light_beyond, int coarse, nb::object earlier,
                        std::optional<mlx::core::array> after) {
        moe::NextLayer layer;
        if (next_scores && !next.is_none()) {  // (its handle, its policy, how many experts to guess)
          const auto of = nb::cast<nb::tuple>(next);
          layer = {next_scores, nb::cast<Layer&>(of[0]).bound, nb::cast<moe::Policy&>(of[1]), nb::cast<int>(of[2])};
        }
        moe::LateStep late{{late_rows, light_beyond, coarse}};
        if (!earlier.is_none()) {  // (its handle, how many rows it has left)
          const auto of = nb::cast<nb::tuple>(earlier);
          late.earlier = nb::cast<Layer&>(of[0]).bound, late.earlier_rows = nb::cast<int>(of[1]);
        }
        return moe::decode(self.bound, step, policy, exact, {scores, raw, weigh, weights, shares}, layer, late, after);
      }, "step"_a, "policy"_a, "exact"_a, "scores"_a.none() = nb::none(), "raw"_a.none() = nb::none(),
         "weigh"_a.none() = nb::none(), "weights"_a.none() = nb::none(), "shares"_a.none() = nb::none(),
         "next_scores"_a.none() = nb::none(), "next"_a.none() = nb::none(), "late_rows"_a = 0, "light_beyond"_a = 0.0,
         "coarse"_a = 0, "earlier"_a.none() = nb::none(), "after"_a.none() = nb::none())
      .def("rows", [](Layer& self, int64_t step, const mlx::core::array& chosen,
                      std::optional<mlx::core::array> after) { return moe::fetch_rows(self.bound, step, chosen, after); },
           "step"_a, "chosen"_a, "after"_a.none() = nb::none());

  // Called once: `deliver(id)` gets the number of the streams that failed and returns the exception to raise.
  m.def("on_fault", [](nb::object deliver) {
    nb::register_exception_translator(
        [](const std::exception_ptr& thrown, void* payload) {
          try {
            std::rethrow_exception(thrown);
          } catch (const std::runtime_error& error) {
            auto streams = moe::ModelStreams::of_error(error.what());
            if (!streams) throw;
            nb::object made = nb::steal(PyObject_CallFunction(static_cast<PyObject*>(payload), "L", (long long)streams->id));
            if (made.is_valid()) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
          }
        },
        deliver.release().ptr());
  });
}
