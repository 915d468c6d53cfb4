"""The summary of a trace, which on a machine without a GPU nobody sees otherwise."""

from __future__ import annotations

import pytest

from bench.gpu_profile import IDLE, ON_GPU, Span, group_of, shares, spans_of


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>", "matrix products"),
        ("triton_tem_fused_flex_attention_backward_7", "attention"),
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "attention"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", "optimizer"),
        ("triton_red_fused__log_softmax__log_softmax_backward_data_nll_loss_3", "loss"),
        ("triton_per_fused_add_native_layer_norm_5", "norms and elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "communication"),
        ("something_new", "other"),
    ],
)
def test_kernels_find_their_group(kernel: str, group: str) -> None:
    assert group_of(kernel) == group


def test_shares_are_of_the_time_from_first_to_last_and_what_is_empty_is_idle() -> None:
    spans = [Span("gemm", 100, 150), Span("flash", 140, 160), Span("gemm", 180, 200)]
    assert shares(spans) == pytest.approx({"matrix products": 0.7, "attention": 0.2, IDLE: 0.2})
    assert shares([]) == {}


def test_only_what_ran_on_the_device_is_taken_from_a_trace() -> None:
    def event(**fields: object) -> dict[str, object]:
        return {"ph": "X", "cat": "kernel", "name": "gemm", "ts": 5.0, "dur": 2.0, **fields}

    others = [event(cat="gpu_user_annotation"), event(cat="cpu_op"), event(ph="f"), {"ph": "M"}]
    assert spans_of([event(), *others], ON_GPU) == [Span("gemm", 5.0, 7.0)]
