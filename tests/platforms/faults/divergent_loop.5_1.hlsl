struct __dynamic_buffer_offsetsTy0 {
    uint _0;
};
ConstantBuffer<__dynamic_buffer_offsetsTy0> __dynamic_buffer_offsets0: register(b0, space1);

struct State {
    uint zero;
    uint position;
    uint row0_;
    uint rows;
    uint ids;
    uint next;
    uint slot;
};

struct Params {
    uint width;
};

static const float ACTIVATION_FLOOR = 8.6736174e-19;
static const float WEIGHT_FLOOR = 9.094947e-13;
static const float RESULT_FLOOR = 7.888609e-31;
static const uint THREADS = 1024u;

ByteAddressBuffer state : register(t0);
cbuffer params : register(b1) { Params params; }
ByteAddressBuffer x_3 : register(t2);
RWByteAddressBuffer out_ : register(u3);
ByteAddressBuffer options : register(t4);
ByteAddressBuffer draws : register(t5);
groupshared uint bins[256];
groupshared uint bits;
groupshared uint missing;
groupshared uint found;
groupshared uint lowest_1;
groupshared uint keys[256];
groupshared uint ids[256];
groupshared float best[256];
groupshared uint best_ids[256];
groupshared float weights[256];
groupshared float partial[64];
groupshared uint kept;

float seal(float x)
{
    uint _e4 = asuint(state.Load(0+__dynamic_buffer_offsets0._0));
    return asfloat((asuint(x) | _e4));
}

float add(float a, float b)
{
    const float _e3 = seal((a + b));
    return _e3;
}

float sub(float a_1, float b_1)
{
    const float _e3 = seal((a_1 - b_1));
    return _e3;
}

float mul_(float a_2, float b_2)
{
    const float _e3 = seal((a_2 * b_2));
    return _e3;
}

float flush(float x_1, float lowest)
{
    return ((abs(x_1) < lowest) ? 0.0 : x_1);
}

float exp_poly(float r)
{
    float p = 0.00019875691;

    float _e3 = p;
    const float _e4 = mul_(_e3, r);
    const float _e6 = add(_e4, 0.0013981999);
    p = _e6;
    float _e7 = p;
    const float _e8 = mul_(_e7, r);
    const float _e10 = add(_e8, 0.008333452);
    p = _e10;
    float _e11 = p;
    const float _e12 = mul_(_e11, r);
    const float _e14 = add(_e12, 0.041665796);
    p = _e14;
    float _e15 = p;
    const float _e16 = mul_(_e15, r);
    const float _e18 = add(_e16, 0.16666666);
    p = _e18;
    float _e19 = p;
    const float _e20 = mul_(_e19, r);
    const float _e22 = add(_e20, 0.5);
    p = _e22;
    float _e23 = p;
    const float _e24 = mul_(r, r);
    const float _e25 = mul_(_e23, _e24);
    const float _e26 = add(_e25, r);
    const float _e28 = add(_e26, 1.0);
    return _e28;
}

int naga_f2i32(float value) {
    return int(clamp(value, -2147483600.0, 2147483500.0));
}

float power_of_two(float n_1)
{
    return asfloat((uint(asint(asuint(naga_f2i32(n_1)) + asuint(int(127)))) << 23u));
}

float exp_(float x0_)
{
    const float _e2 = flush(x0_, WEIGHT_FLOOR);
    float x_4 = max(min(_e2, 88.0), -87.0);
    const float _e8 = mul_(x_4, 1.442695);
    float n_3 = round(_e8);
    const float _e11 = mul_(n_3, 0.6933594);
    const float _e12 = sub(x_4, _e11);
    const float _e14 = mul_(n_3, -0.00021219444);
    const float _e15 = sub(_e12, _e14);
    const float _e16 = exp_poly(_e15);
    const float _e17 = power_of_two(n_3);
    const float _e18 = mul_(_e16, _e17);
    return _e18;
}

float s8_tree(float4 a_3, float4 b_3)
{
    const float _e4 = add(a_3.x, b_3.x);
    const float _e7 = add(a_3.z, b_3.z);
    const float _e8 = add(_e4, _e7);
    const float _e11 = add(a_3.y, b_3.y);
    const float _e14 = add(a_3.w, b_3.w);
    const float _e15 = add(_e11, _e14);
    const float _e16 = add(_e8, _e15);
    return _e16;
}

uint key(float x_2)
{
    uint u = asuint(x_2);
    return (((u >> 31u) == 1u) ? ~(u) : (u | 2147483648u));
}

float unkey(uint k)
{
    return asfloat((((k >> 31u) == 1u) ? (k & 2147483647u) : ~(k)));
}

uint key_at(uint i_4)
{
    uint _e4 = asuint(state.Load(24+__dynamic_buffer_offsets0._0));
    uint _e7 = params.width;
    float _e11 = asfloat(x_3.Load(((_e4 * _e7) + i_4)*4));
    const uint _e12 = key(_e11);
    return _e12;
}

void find(uint thread_1, uint top_k)
{
    uint round_ = 0u;
    uint i_5 = (uint)0;
    uint i_6 = (uint)0;
    bool local_3 = (bool)0;
    uint bin = (uint)0;
    uint rest = (uint)0;
    bool local_4 = (bool)0;

    if ((thread_1 == 0u)) {
        bits = 0u;
        missing = top_k;
        { uint dummy = 0; InterlockedExchange(found, 0u, dummy); }
    }
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e103 = round_;
            round_ = (_e103 + 1u);
        }
        loop_init = false;
        uint _e11 = round_;
        if ((_e11 < 4u)) {
        } else {
            break;
        }
        {
            uint _e16 = round_;
            uint shift = (24u - (8u * _e16));
            i_5 = thread_1;
            bool loop_init_1 = true;
            while(true) {
                if (!loop_init_1) {
                    uint _e27 = i_5;
                    i_5 = (_e27 + THREADS);
                }
                loop_init_1 = false;
                uint _e20 = i_5;
                if ((_e20 < 256u)) {
                } else {
                    break;
                }
                {
                    uint _e24 = i_5;
                    { uint dummy_1 = 0; InterlockedExchange(bins[_e24], 0u, dummy_1); }
                }
            }
            GroupMemoryBarrierWithGroupSync();
            i_6 = thread_1;
            bool loop_init_2 = true;
            while(true) {
                if (!loop_init_2) {
                    uint _e63 = i_6;
                    i_6 = (_e63 + THREADS);
                }
                loop_init_2 = false;
                uint _e31 = i_6;
                uint _e34 = params.width;
                if ((_e31 < _e34)) {
                } else {
                    break;
                }
                {
                    uint _e36 = i_6;
                    const uint _e37 = key_at(_e36);
                    uint _e38 = round_;
                    if (!((_e38 == 0u))) {
                        uint _e45 = bits;
                        local_3 = (((_e37 ^ _e45) >> min((shift + 8u), 31u)) == 0u);
                    } else {
                        local_3 = true;
                    }
                    bool _e55 = local_3;
                    if (_e55) {
                        uint _e62; InterlockedAdd(bins[((_e37 >> shift) & 255u)], 1u, _e62);
                    }
                }
            }
            GroupMemoryBarrierWithGroupSync();
            if ((thread_1 == 0u)) {
                bin = 255u;
                uint _e71 = missing;
                rest = _e71;
                while(true) {
                    uint _e73 = bin;
                    if ((_e73 > 0u)) {
                        uint _e79 = bin;
                        uint _e81; InterlockedOr(bins[_e79], 0, _e81);
                        uint _e82 = rest;
                        local_4 = (_e81 < _e82);
                    } else {
                        local_4 = false;
                    }
                    bool _e85 = local_4;
                    if (_e85) {
                    } else {
                        break;
                    }
                    {
                        uint _e86 = rest;
                        uint _e88 = bin;
                        uint _e90; InterlockedOr(bins[_e88], 0, _e90);
                        rest = (_e86 - _e90);
                        uint _e93 = bin;
                        bin = (_e93 - 1u);
                    }
                }
                uint _e96 = rest;
                missing = _e96;
                uint _e98 = bits;
                uint _e99 = bin;
                bits = (_e98 | (_e99 << shift));
            }
            GroupMemoryBarrierWithGroupSync();
        }
    }
    return;
}

void gather(uint thread_2, uint top_k_1)
{
    uint i_7 = (uint)0;
    uint from_id = 0u;
    uint n_2 = 0u;
    uint i_8 = (uint)0;

    i_7 = thread_2;
    bool loop_init_3 = true;
    while(true) {
        if (!loop_init_3) {
            uint _e21 = i_7;
            i_7 = (_e21 + THREADS);
        }
        loop_init_3 = false;
        uint _e3 = i_7;
        uint _e6 = params.width;
        if ((_e3 < _e6)) {
        } else {
            break;
        }
        {
            uint _e8 = i_7;
            const uint _e9 = key_at(_e8);
            uint _e11 = bits;
            if ((_e9 > _e11)) {
                uint _e15; InterlockedAdd(found, 1u, _e15);
                keys[_e15] = _e9;
                uint _e20 = i_7;
                ids[_e15] = _e20;
            }
        }
    }
    GroupMemoryBarrierWithGroupSync();
    uint _e25 = missing;
    GroupMemoryBarrierWithGroupSync();
    bool loop_init_4 = true;
    while(true) {
        if (!loop_init_4) {
            uint _e74 = n_2;
            n_2 = (_e74 + 1u);
        }
        loop_init_4 = false;
        uint _e30 = n_2;
        if ((_e30 < _e25)) {
        } else {
            break;
        }
        {
            if ((thread_2 == 0u)) {
                { uint dummy_2 = 0; InterlockedExchange(lowest_1, 4294967295u, dummy_2); }
            }
            GroupMemoryBarrierWithGroupSync();
            uint _e36 = from_id;
            i_8 = (_e36 + thread_2);
            bool loop_init_5 = true;
            while(true) {
                if (!loop_init_5) {
                    uint _e52 = i_8;
                    i_8 = (_e52 + THREADS);
                }
                loop_init_5 = false;
                uint _e39 = i_8;
                uint _e42 = params.width;
                if ((_e39 < _e42)) {
                } else {
                    break;
                }
                {
                    uint _e44 = i_8;
                    const uint _e45 = key_at(_e44);
                    uint _e47 = bits;
                    if ((_e45 == _e47)) {
                        uint _e50 = i_8;
                        uint _e51; InterlockedMin(lowest_1, _e50, _e51);
                        break;
                    }
                }
            }
            GroupMemoryBarrierWithGroupSync();
            uint id; InterlockedOr(lowest_1, 0, id);
            if ((thread_2 == 0u)) {
                uint _e61 = n_2;
                uint _e65 = bits;
                keys[((top_k_1 - _e25) + _e61)] = _e65;
                uint _e68 = n_2;
                ids[((top_k_1 - _e25) + _e68)] = id;
            }
            from_id = (id + 1u);
            GroupMemoryBarrierWithGroupSync();
        }
    }
    return;
}

void sort(uint thread_3, uint top_k_2)
{
    uint i_9 = (uint)0;
    uint rank = (uint)0;
    uint j_1 = (uint)0;
    bool local_5 = (bool)0;
    bool local_6 = (bool)0;

    i_9 = thread_3;
    bool loop_init_6 = true;
    while(true) {
        if (!loop_init_6) {
            uint _e68 = i_9;
            i_9 = (_e68 + THREADS);
        }
        loop_init_6 = false;
        uint _e3 = i_9;
        if ((_e3 < top_k_2)) {
        } else {
            break;
        }
        {
            rank = 0u;
            j_1 = 0u;
            bool loop_init_7 = true;
            while(true) {
                if (!loop_init_7) {
                    uint _e51 = j_1;
                    j_1 = (_e51 + 1u);
                }
                loop_init_7 = false;
                uint _e9 = j_1;
                if ((_e9 < top_k_2)) {
                } else {
                    break;
                }
                {
                    uint _e12 = j_1;
                    uint _e14 = keys[_e12];
                    uint _e16 = i_9;
                    uint _e18 = keys[_e16];
                    if (!((_e14 > _e18))) {
                        uint _e24 = j_1;
                        uint _e26 = keys[_e24];
                        uint _e28 = i_9;
                        uint _e30 = keys[_e28];
                        if ((_e26 == _e30)) {
                            uint _e35 = j_1;
                            uint _e37 = ids[_e35];
                            uint _e39 = i_9;
                            uint _e41 = ids[_e39];
                            local_6 = (_e37 < _e41);
                        } else {
                            local_6 = false;
                        }
                        bool _e44 = local_6;
                        local_5 = _e44;
                    } else {
                        local_5 = true;
                    }
                    bool _e46 = local_5;
                    if (_e46) {
                        uint _e48 = rank;
                        rank = (_e48 + 1u);
                    }
                }
            }
            uint _e54 = rank;
            uint _e57 = i_9;
            uint _e59 = keys[_e57];
            const float _e60 = unkey(_e59);
            best[_e54] = _e60;
            uint _e62 = rank;
            uint _e65 = i_9;
            uint _e67 = ids[_e65];
            best_ids[_e62] = _e67;
        }
    }
    return;
}

float total()
{
    float blocks[8] = (float[8])0;
    uint b_4 = 0u;

    bool loop_init_8 = true;
    while(true) {
        if (!loop_init_8) {
            uint _e53 = b_4;
            b_4 = (_e53 + 1u);
        }
        loop_init_8 = false;
        uint _e3 = b_4;
        if ((_e3 < 8u)) {
        } else {
            break;
        }
        {
            uint _e7 = b_4;
            uint at_1 = (8u * _e7);
            uint _e9 = b_4;
            float _e13 = partial[at_1];
            float _e18 = partial[(at_1 + 1u)];
            float _e23 = partial[(at_1 + 2u)];
            float _e28 = partial[(at_1 + 3u)];
            float _e34 = partial[(at_1 + 4u)];
            float _e39 = partial[(at_1 + 5u)];
            float _e44 = partial[(at_1 + 6u)];
            float _e49 = partial[(at_1 + 7u)];
            const float _e51 = s8_tree(float4(_e13, _e18, _e23, _e28), float4(_e34, _e39, _e44, _e49));
            blocks[_e9] = _e51;
        }
    }
    float _e56 = blocks[0];
    float _e58 = blocks[1];
    float _e60 = blocks[2];
    float _e62 = blocks[3];
    float _e65 = blocks[4];
    float _e67 = blocks[5];
    float _e69 = blocks[6];
    float _e71 = blocks[7];
    const float _e73 = s8_tree(float4(_e56, _e58, _e60, _e62), float4(_e65, _e67, _e69, _e71));
    return _e73;
}

[numthreads(1024, 1, 1)]
void main(uint thread : SV_GroupIndex)
{
    uint i = (uint)0;
    float w = (float)0;
    uint i_1 = (uint)0;
    float sum = (float)0;
    uint j = (uint)0;
    uint n = 1u;
    float sum_1 = (float)0;
    bool local = (bool)0;
    bool local_1 = (bool)0;
    uint i_2 = (uint)0;
    float all_ = 0.0;
    uint i_3 = 0u;
    uint at = 0u;
    float sum_2 = (float)0;
    bool local_2 = (bool)0;

    uint _e3 = asuint(options.Load(0));
    uint _e6 = params.width;
    uint top_k_3 = min(_e3, _e6);
    uint _e10 = asuint(options.Load(4));
    float top_p = asfloat(_e10);
    uint _e14 = asuint(options.Load(8));
    float min_p = asfloat(_e14);
    uint _e18 = asuint(options.Load(12));
    float inverse = asfloat(_e18);
    find(thread, top_k_3);
    gather(thread, top_k_3);
    GroupMemoryBarrierWithGroupSync();
    sort(thread, top_k_3);
    GroupMemoryBarrierWithGroupSync();
    i = thread;
    bool loop_init_9 = true;
    while(true) {
        if (!loop_init_9) {
            uint _e41 = i;
            i = (_e41 + THREADS);
        }
        loop_init_9 = false;
        uint _e21 = i;
        if ((_e21 < 256u)) {
        } else {
            break;
        }
        {
            w = 0.0;
            uint _e26 = i;
            if ((_e26 < top_k_3)) {
                uint _e29 = i;
                float _e31 = best[_e29];
                float _e34 = best[0];
                const float _e35 = sub(_e31, _e34);
                const float _e36 = exp_(_e35);
                w = _e36;
            }
            uint _e38 = i;
            float _e40 = w;
            weights[_e38] = _e40;
        }
    }
    GroupMemoryBarrierWithGroupSync();
    i_1 = thread;
    bool loop_init_10 = true;
    while(true) {
        if (!loop_init_10) {
            uint _e80 = i_1;
            i_1 = (_e80 + THREADS);
        }
        loop_init_10 = false;
        uint _e45 = i_1;
        if ((_e45 < 64u)) {
        } else {
            break;
        }
        {
            sum = 0.0;
            j = 0u;
            bool loop_init_11 = true;
            while(true) {
                if (!loop_init_11) {
                    uint _e74 = j;
                    j = (_e74 + 1u);
                }
                loop_init_11 = false;
                uint _e52 = j;
                if ((_e52 < 4u)) {
                } else {
                    break;
                }
                {
                    float _e55 = sum;
                    uint _e58 = i_1;
                    uint _e63 = j;
                    uint _e66 = i_1;
                    float _e71 = weights[(((32u * (_e58 >> 3u)) + (8u * _e63)) + (_e66 & 7u))];
                    const float _e72 = add(_e55, _e71);
                    sum = _e72;
                }
            }
            uint _e77 = i_1;
            float _e79 = sum;
            partial[_e77] = _e79;
        }
    }
    GroupMemoryBarrierWithGroupSync();
    if ((thread == 0u)) {
        const float _e85 = total();
        const float _e86 = mul_(top_p, _e85);
        float _e91 = weights[0];
        sum_1 = _e91;
        while(true) {
            uint _e93 = n;
            if ((_e93 < top_k_3)) {
                float _e97 = sum_1;
                local = (_e97 < _e86);
            } else {
                local = false;
            }
            bool _e100 = local;
            if (_e100) {
                uint _e104 = n;
                float _e106 = weights[_e104];
                local_1 = (_e106 >= min_p);
            } else {
                local_1 = false;
            }
            bool _e109 = local_1;
            if (_e109) {
            } else {
                break;
            }
            {
                float _e110 = sum_1;
                uint _e112 = n;
                float _e114 = weights[_e112];
                const float _e115 = add(_e110, _e114);
                sum_1 = _e115;
                uint _e117 = n;
                n = (_e117 + 1u);
            }
        }
        uint _e120 = n;
        kept = _e120;
    }
    GroupMemoryBarrierWithGroupSync();
    i_2 = thread;
    bool loop_init_12 = true;
    while(true) {
        if (!loop_init_12) {
            uint _e139 = i_2;
            i_2 = (_e139 + THREADS);
        }
        loop_init_12 = false;
        uint _e122 = i_2;
        uint _e124 = kept;
        if ((_e122 < _e124)) {
        } else {
            break;
        }
        {
            uint _e127 = i_2;
            uint _e130 = i_2;
            float _e132 = best[_e130];
            float _e135 = best[0];
            const float _e136 = sub(_e132, _e135);
            const float _e137 = mul_(_e136, inverse);
            const float _e138 = exp_(_e137);
            weights[_e127] = _e138;
        }
    }
    GroupMemoryBarrierWithGroupSync();
    if ((thread == 0u)) {
        bool loop_init_13 = true;
        while(true) {
            if (!loop_init_13) {
                uint _e159 = i_3;
                i_3 = (_e159 + 1u);
            }
            loop_init_13 = false;
            uint _e148 = i_3;
            uint _e150 = kept;
            if ((_e148 < _e150)) {
            } else {
                break;
            }
            {
                float _e152 = all_;
                uint _e154 = i_3;
                float _e156 = weights[_e154];
                const float _e157 = add(_e152, _e156);
                all_ = _e157;
            }
        }
        uint _e164 = asuint(state.Load(20+__dynamic_buffer_offsets0._0));
        float _e166 = asfloat(draws.Load(_e164*4));
        float _e167 = all_;
        const float _e168 = mul_(_e166, _e167);
        float _e173 = weights[0];
        sum_2 = _e173;
        while(true) {
            uint _e175 = at;
            uint _e179 = kept;
            if (((_e175 + 1u) < _e179)) {
                float _e183 = sum_2;
                local_2 = (_e168 >= _e183);
            } else {
                local_2 = false;
            }
            bool _e186 = local_2;
            if (_e186) {
            } else {
                break;
            }
            {
                uint _e188 = at;
                at = (_e188 + 1u);
                float _e190 = sum_2;
                uint _e192 = at;
                float _e194 = weights[_e192];
                const float _e195 = add(_e190, _e194);
                sum_2 = _e195;
            }
        }
        uint _e199 = asuint(state.Load(20+__dynamic_buffer_offsets0._0));
        uint _e202 = at;
        uint _e204 = best_ids[_e202];
        out_.Store(_e199*4, asuint(_e204));
        return;
    } else {
        return;
    }
}
