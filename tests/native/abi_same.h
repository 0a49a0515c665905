// How abi_*.cc compare our declarations with the official ones. Those need only compile. Ours come
// first and are in a namespace, because some official constants are macros.

#ifndef NVSTATE_TESTS_ABI_SAME_H_
#define NVSTATE_TESTS_ABI_SAME_H_

#include <cstddef>
#include <type_traits>

// Opaque structs and enums are equal by what a caller passes: a pointer, an int. All else must be
// the same type.
template <typename Ours, typename Theirs>
constexpr bool Same() {
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using O = std::remove_pointer_t<Ours>;
    using T = std::remove_pointer_t<Theirs>;
    return std::is_const_v<O> == std::is_const_v<T> &&
           ((std::is_class_v<O> && std::is_class_v<T>) || Same<O, T>());
  } else if constexpr (std::is_enum_v<Ours> && std::is_enum_v<Theirs>) {
    return sizeof(Ours) == sizeof(Theirs) && sizeof(Ours) == sizeof(int);
  } else {
    return std::is_same_v<Ours, Theirs>;
  }
}

template <typename Ours, typename Theirs>
struct SameFunction : std::false_type {};

template <typename R, typename... As, typename S, typename... Bs>
struct SameFunction<R(As...), S(Bs...)> {
  static constexpr bool Arguments() {
    if constexpr (sizeof...(As) == sizeof...(Bs)) {
      return (Same<As, Bs>() && ...);
    } else {
      return false;
    }
  }
  static constexpr bool value = Same<R, S>() && Arguments();
};

#define FUNCTION(name) \
  static_assert(SameFunction<decltype(nvstate::abi::name), decltype(::name)>::value, #name);
#define VALUE(name) static_assert(int{nvstate::abi::name} == int{::name}, #name);

#endif  // NVSTATE_TESTS_ABI_SAME_H_
