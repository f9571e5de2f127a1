"""The architectures of the raising benchmark by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import transformers
from tersor.benchmarks import _raising_calls as calls
from tersor.benchmarks._raising_architecture import (
    HEADS,
    HIDDEN,
    INNER,
    KV_HEADS,
    LAYERS,
    POSITIONS,
    WIDTH,
    Architecture,
    bert_like,
    llama_like,
    seq2seq_like,
)
from tersor.benchmarks._raising_calls import VOCABULARY

PIXELS, PATCH = 32, 8
BINS, FRAMES = 16, 40
_T5 = partial(
    transformers.T5Config,
    vocab_size=VOCABULARY,
    d_model=HIDDEN,
    d_kv=WIDTH,
    d_ff=INNER,
    num_layers=LAYERS,
    num_heads=HEADS,
)
_GPT2 = partial(
    transformers.GPT2Config,
    vocab_size=VOCABULARY,
    n_positions=POSITIONS,
    n_embd=HIDDEN,
    n_layer=LAYERS,
    n_head=HEADS,
    n_inner=INNER,
    bos_token_id=0,
    eos_token_id=0,
)
_GPT = ("gpt2",)
_ROTARY = ("qwen3", "gpt2")
_SEQ2SEQ_ATTENTION = 3 * LAYERS
"""Of the encoder, the decoder, and between the two."""


def architectures() -> Mapping[str, Architecture]:
    """All by name, those first that most is built on."""
    t = transformers
    encoder, decoder = calls.encoder(), calls.decoder()
    cache, kv_cache = (calls.cached_decoder(LAYERS, heads, WIDTH) for heads in (HEADS, KV_HEADS))
    floating = calls.encoder(floating=True)
    rotary = 2 * LAYERS
    llama, qwen2 = llama_like(t.LlamaConfig), llama_like(t.Qwen2Config)
    big_bird = {"max_position_embeddings": POSITIONS, "block_size": 4, "num_random_blocks": 1}
    return {
        "bert": Architecture(t.BertModel, bert_like(t.BertConfig), encoder),
        "llama": Architecture(t.LlamaForCausalLM, llama, decoder, rotary=rotary, note="grouped queries", peers=_ROTARY),
        "gpt2": Architecture(t.GPT2LMHeadModel, _GPT2, decoder, peers=_GPT),
        "t5-encoder": Architecture(
            t.T5EncoderModel, _T5, encoder, spread=False, note="relative positions as a bias", peers=("t5",)
        ),
        "t5-decoder": Architecture(
            t.T5ForConditionalGeneration,
            _T5,
            calls.cross_decoder(HIDDEN),
            2 * LAYERS,
            spread=False,
            note="self and cross attention",
            peers=("t5",),
        ),
        "distilbert": Architecture(
            t.DistilBertModel,
            partial(
                t.DistilBertConfig,
                vocab_size=VOCABULARY,
                max_position_embeddings=POSITIONS,
                n_layers=LAYERS,
                n_heads=HEADS,
                dim=HIDDEN,
                hidden_dim=INNER,
            ),
            encoder,
        ),
        "vit": Architecture(
            t.ViTModel,
            bert_like(t.ViTConfig, image_size=PIXELS, patch_size=PATCH),
            calls.image_encoder(PIXELS),
            peers=("vit",),
        ),
        "qwen3": Architecture(
            t.Qwen3ForCausalLM,
            llama_like(t.Qwen3Config, head_dim=WIDTH),
            decoder,
            rotary=rotary,
            note="norms of queries and keys",
            peers=_ROTARY,
        ),
        "gemma2": Architecture(
            t.Gemma2ForCausalLM,
            llama_like(t.Gemma2Config, head_dim=WIDTH, sliding_window=8, query_pre_attn_scalar=WIDTH),
            decoder,
            rotary=rotary,
            note="softcap (eager only), a window in every other layer",
            peers=_ROTARY,
        ),
        "deberta-v2": Architecture(
            t.DebertaV2Model,
            bert_like(
                t.DebertaV2Config,
                relative_attention=True,
                pos_att_type=["p2c", "c2p"],
                position_buckets=16,
                norm_rel_ebd="layer_norm",
                share_att_key=True,
                position_biased_input=False,
            ),
            encoder,
            note="bias computed from queries and keys",
        ),
        "bart": Architecture(
            t.BartForConditionalGeneration,
            seq2seq_like(t.BartConfig),
            calls.encoder_decoder(),
            _SEQ2SEQ_ATTENTION,
            peers=("bart", "bert"),
        ),
        "gpt-neox": Architecture(
            t.GPTNeoXForCausalLM,
            bert_like(t.GPTNeoXConfig, bos_token_id=0, eos_token_id=2),
            decoder,
            rotary=rotary,
            note="a quarter of each head rotates",
            peers=("gpt_neox", "gpt2"),
        ),
        "gpt2-cache": Architecture(t.GPT2LMHeadModel, _GPT2, cache, note="keys and values in and out", peers=_GPT),
        "llama-cache": Architecture(
            t.LlamaForCausalLM, llama, kv_cache, rotary=rotary, note="keys and values in and out", peers=_ROTARY
        ),
        "bloom": Architecture(
            t.BloomForCausalLM,
            partial(
                t.BloomConfig,
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                n_layer=LAYERS,
                n_head=HEADS,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            ),
            decoder,
            note="ALiBi",
            peers=_GPT,
        ),
        "modernbert": Architecture(
            t.ModernBertModel,
            bert_like(
                t.ModernBertConfig,
                local_attention=8,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                cls_token_id=1,
                sep_token_id=2,
            ),
            encoder,
            rotary=rotary,
            note="a window in the second layer",
        ),
        "mpnet": Architecture(t.MPNetModel, bert_like(t.MPNetConfig), encoder, note="relative positions as a bias"),
        "roberta": Architecture(t.RobertaModel, bert_like(t.RobertaConfig), encoder),
        "albert": Architecture(
            t.AlbertModel,
            bert_like(t.AlbertConfig, embedding_size=32),
            encoder,
            note="one set of weights for all layers",
        ),
        "electra": Architecture(t.ElectraModel, bert_like(t.ElectraConfig, embedding_size=32), encoder),
        "xlm-roberta": Architecture(t.XLMRobertaModel, bert_like(t.XLMRobertaConfig), encoder),
        "mobilebert": Architecture(
            t.MobileBertModel,
            bert_like(t.MobileBertConfig, embedding_size=32, intra_bottleneck_size=HIDDEN, true_hidden_size=HIDDEN),
            encoder,
            note="bottlenecks; its own NoNorm is no norm",
        ),
        "squeezebert": Architecture(
            t.SqueezeBertModel,
            bert_like(t.SqueezeBertConfig, embedding_size=HIDDEN),
            encoder,
            note="grouped convolutions, [batch, hidden, sequence]",
        ),
        "mistral": Architecture(
            t.MistralForCausalLM,
            llama_like(t.MistralConfig, sliding_window=8),
            decoder,
            rotary=rotary,
            note="a window in every layer",
            peers=_ROTARY,
        ),
        "qwen2": Architecture(t.Qwen2ForCausalLM, qwen2, decoder, rotary=rotary, peers=_ROTARY),
        "qwen2-cache": Architecture(
            t.Qwen2ForCausalLM, qwen2, kv_cache, rotary=rotary, note="keys and values in and out", peers=_ROTARY
        ),
        "phi3": Architecture(
            t.Phi3ForCausalLM,
            llama_like(t.Phi3Config),
            decoder,
            rotary=rotary,
            note="packed projections",
            peers=("phi", "qwen3"),
        ),
        "falcon": Architecture(
            t.FalconForCausalLM,
            partial(
                t.FalconConfig,
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
                max_position_embeddings=POSITIONS,
            ),
            decoder,
            rotary=rotary,
            note="one head of keys and values, packed projections",
            peers=_ROTARY,
        ),
        "stablelm": Architecture(
            t.StableLmForCausalLM,
            llama_like(t.StableLmConfig),
            decoder,
            rotary=rotary,
            note="a quarter of each head rotates",
            peers=_ROTARY,
        ),
        "opt": Architecture(
            t.OPTForCausalLM,
            partial(
                t.OPTConfig,
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                num_hidden_layers=LAYERS,
                ffn_dim=INNER,
                num_attention_heads=HEADS,
                max_position_embeddings=POSITIONS,
                word_embed_proj_dim=HIDDEN,
                pad_token_id=1,
                bos_token_id=2,
                eos_token_id=2,
            ),
            decoder,
            peers=_GPT,
        ),
        "gpt-neo": Architecture(
            t.GPTNeoForCausalLM,
            partial(
                t.GPTNeoConfig,
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                num_layers=LAYERS,
                num_heads=HEADS,
                attention_types=[[["global", "local"], LAYERS // 2]],
                window_size=8,
                intermediate_size=INNER,
                max_position_embeddings=POSITIONS,
                bos_token_id=0,
                eos_token_id=0,
            ),
            decoder,
            note="a window in every other layer, no scale",
            peers=_GPT,
        ),
        "marian": Architecture(
            t.MarianMTModel,
            seq2seq_like(t.MarianConfig, forced_eos_token_id=2),
            calls.encoder_decoder(),
            _SEQ2SEQ_ATTENTION,
            peers=("bart", "bert"),
        ),
        "pegasus": Architecture(
            t.PegasusForConditionalGeneration,
            seq2seq_like(t.PegasusConfig, forced_eos_token_id=2),
            calls.encoder_decoder(),
            _SEQ2SEQ_ATTENTION,
            peers=("bart", "bert"),
        ),
        "whisper-encoder": Architecture(
            transformers.models.whisper.modeling_whisper.WhisperEncoder,
            seq2seq_like(t.WhisperConfig, num_mel_bins=BINS, max_source_positions=FRAMES // 2),
            calls.audio_encoder(BINS, FRAMES),
            peers=("bart", "bert"),
        ),
        "clip": Architecture(
            t.CLIPModel,
            partial(
                t.CLIPConfig,
                text_config=bert_like(t.CLIPTextConfig, pad_token_id=0, bos_token_id=1, eos_token_id=2)().to_dict(),
                vision_config=bert_like(t.CLIPVisionConfig, image_size=PIXELS, patch_size=PATCH)().to_dict(),
                projection_dim=32,
            ),
            calls.text_and_image(PIXELS),
            2 * LAYERS,
            note="text and vision",
            peers=("clip", "bert"),
        ),
        "t5-decoder-cache": Architecture(
            t.T5ForConditionalGeneration,
            _T5,
            calls.cached_cross_decoder(HIDDEN, LAYERS, HEADS, WIDTH),
            2 * LAYERS,
            spread=False,
            note="keys and values in and out, cross attention",
            peers=("t5",),
        ),
        "bigbird-full": Architecture(
            t.BigBirdModel, bert_like(t.BigBirdConfig, attention_type="original_full"), encoder, note="full attention"
        ),
        "bigbird": Architecture(
            t.BigBirdModel,
            bert_like(t.BigBirdConfig, attention_type="block_sparse", **big_bird),
            floating.sized(sequence=48),
            standard=False,
            note="block-sparse",
        ),
        "longformer": Architecture(
            t.LongformerModel,
            bert_like(t.LongformerConfig, attention_window=[8] * LAYERS),
            encoder.sized(sequence=24),
            standard=False,
            note="sliding chunks",
        ),
        "funnel": Architecture(
            t.FunnelModel,
            partial(
                t.FunnelConfig,
                vocab_size=VOCABULARY,
                block_sizes=[1, 1],
                num_decoder_layers=1,
                d_model=HIDDEN,
                n_head=HEADS,
                d_head=WIDTH,
                d_inner=INNER,
            ),
            encoder.sized(sequence=16),
            3,
            standard=False,
            note="relative shift, pooled queries; its code fixes the sequence",
        ),
        "xlnet": Architecture(
            t.XLNetModel,
            partial(
                t.XLNetConfig,
                vocab_size=VOCABULARY,
                d_model=HIDDEN,
                n_layer=LAYERS,
                n_head=HEADS,
                d_inner=INNER,
                use_mems_eval=False,
            ),
            floating,
            standard=False,
            note="relative shift",
        ),
        "mamba": Architecture(
            t.MambaForCausalLM,
            partial(
                t.MambaConfig,
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                num_hidden_layers=LAYERS,
                state_size=8,
            ),
            calls.decoder(mask=False).sized(sequence=12),
            0,
            spread=False,
            note="no attention; its loop over the sequence unrolls",
            peers=_GPT,
        ),
    }
