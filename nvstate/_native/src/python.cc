// What Python calls through ctypes. Each function returns 0, or a code whose text is then
// nvstate_last_error() in the same thread.

#include <algorithm>
#include <cstring>
#include <string>

#include "nvstate/answer.h"
#include "nvstate/cache.h"
#include "nvstate/cufft_plan.h"
#include "nvstate/error.h"
#include "nvstate/layout.h"
#include "nvstate/library.h"
#include "xla/ffi/api/c_api.h"

namespace nvstate {
namespace {

Problem ProblemOf(const char* kind, const int64_t* x, const int64_t* y, int ndim,
                  const int64_t* lengths, int nlengths, const int64_t* layout) {
  return {KindOf(kind), Ints(x, x + ndim), Ints(y, y + ndim), Ints(lengths, lengths + nlengths),
          Ints(layout, layout + ndim)};
}

}  // namespace

std::string& LastText() {
  thread_local std::string text;
  return text;
}

}  // namespace nvstate

using nvstate::Cache;
using nvstate::Called;

extern "C" {

NVS_EXPORT int nvstate_ffi_api_minor() { return XLA_FFI_API_MINOR; }

NVS_EXPORT const char* nvstate_last_error() { return nvstate::LastError(); }

NVS_EXPORT const char* nvstate_last_text() { return nvstate::LastText().c_str(); }

// `path` may be null: then only a copy that this process has loaded already is opened.
NVS_EXPORT int nvstate_library_open(const char* name, const char* path) {
  return Called([&] { nvstate::Library::Open(name, path); });
}

NVS_EXPORT int nvstate_library_hint(const char* name, const char* path) {
  return Called([&] { nvstate::Library::Hint(name, path); });
}

NVS_EXPORT const char* nvstate_library_path(const char* name) {
  const char* path = nullptr;
  Called([&] { path = nvstate::Library::Path(name); });
  return path;
}

NVS_EXPORT int nvstate_cufft_version(int* version) {
  return Called([&] { *version = nvstate::Opened<nvstate::cufft::Api>().version; });
}

// `x`, `y` and `layout` have `ndim` entries; `json` is a buffer of `size` bytes.
NVS_EXPORT int nvstate_cufft_layout(const char* kind, const int64_t* x, const int64_t* y, int ndim,
                                    const int64_t* lengths, int nlengths, const int64_t* layout,
                                    char* json, int64_t size) {
  return Called([&] {
    const std::string text = nvstate::Json(
        nvstate::LayoutOf(nvstate::ProblemOf(kind, x, y, ndim, lengths, nlengths, layout)));
    if (static_cast<int64_t>(text.size()) >= size) {
      throw nvstate::Failure(nvstate::Code::kInternal, "the layout's text does not fit");
    }
    std::memcpy(json, text.c_str(), text.size() + 1);
  });
}

// Makes the plan in the cache, where a call's initialize will find it; bytes of its work area.
NVS_EXPORT int nvstate_cufft_plan(int device, const char* kind, const char* dtype, const int64_t* x,
                                  const int64_t* y, int ndim, const int64_t* lengths, int nlengths,
                                  const int64_t* layout, int64_t owner, int64_t* workspace) {
  return Called([&] {
    const auto problem = nvstate::ProblemOf(kind, x, y, ndim, lengths, nlengths, layout);
    const nvstate::cufft::Transform transform{problem.kind, nvstate::cufft::IsWide(dtype),
                                              nvstate::LayoutOf(problem)};
    *workspace = 0;
    if (transform.layout.batch == 0) return;
    *workspace =
        static_cast<int64_t>(nvstate::cufft::PlanFor(device, transform, owner)->work_bytes());
  });
}

NVS_EXPORT int nvstate_cufft_estimate(int device, const char* kind, const char* dtype,
                                      const int64_t* x, const int64_t* y, int ndim,
                                      const int64_t* lengths, int nlengths, const int64_t* layout,
                                      const char* technique, int64_t* workspace) {
  return Called([&] {
    const auto problem = nvstate::ProblemOf(kind, x, y, ndim, lengths, nlengths, layout);
    const nvstate::cufft::Transform transform{problem.kind, nvstate::cufft::IsWide(dtype),
                                              nvstate::LayoutOf(problem)};
    *workspace = 0;
    if (transform.layout.batch == 0) return;
    *workspace = static_cast<int64_t>(nvstate::cufft::Estimate(device, transform, technique));
  });
}

// plans, recent, held, bytes, hits, made, destroyed, own_workspaces, limit, bytes_limit,
// recent_bytes, unpinned: the first n of these.
NVS_EXPORT int nvstate_cache_info(int64_t* out, int n) {
  return Called([&] {
    const Cache::Counts c = Cache::Global().Count();
    const int64_t all[] = {c.plans, c.recent,      c.held,         c.bytes,
                           c.hits,  c.made,        c.destroyed,    c.own_workspaces,
                           c.limit, c.bytes_limit, c.recent_bytes, c.unpinned};
    std::copy_n(all, std::clamp<int64_t>(n, 0, std::size(all)), out);
  });
}

NVS_EXPORT int nvstate_cache_limit(int64_t plans, int64_t bytes) {
  return Called([&] { Cache::Global().SetLimit(plans, bytes); });
}

// The plans made after `generation`, the one unused longest first: its own generation, bytes, how
// many owners, each owner. `n` is how many numbers fit into `out`, and then how many there are.
NVS_EXPORT int nvstate_cache_rows(int64_t generation, int64_t* out, int64_t* n) {
  return Called([&] {
    std::vector<int64_t> all;
    for (const Cache::Row& row : Cache::Global().Rows(generation)) {
      all.push_back(row.generation);
      all.push_back(row.bytes);
      all.push_back(static_cast<int64_t>(row.owners.size()));
      all.insert(all.end(), row.owners.begin(), row.owners.end());
    }
    const auto count = static_cast<int64_t>(all.size());
    std::copy_n(all.begin(), std::clamp<int64_t>(*n, 0, count), out);
    *n = count;
  });
}

NVS_EXPORT int nvstate_cache_drop(int64_t owner) {
  return Called([&] { Cache::Global().Drop(owner); });
}

NVS_EXPORT int nvstate_cache_drop_made(int64_t generation) {
  return Called([&] { Cache::Global().DropMade(generation); });
}

NVS_EXPORT int nvstate_cache_clear() {
  return Called([&] { Cache::Global().Clear(); });
}

NVS_EXPORT int64_t nvstate_cache_generation() { return Cache::Global().Generation(); }

NVS_EXPORT int nvstate_cache_drop_since(int64_t generation) {
  return Called([&] { Cache::Global().DropSince(generation); });
}

}  // extern "C"
