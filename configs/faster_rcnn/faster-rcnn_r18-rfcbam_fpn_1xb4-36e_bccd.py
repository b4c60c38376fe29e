_base_ = './faster-rcnn_r18_fpn_1xb4-36e_bccd.py'
# A neutral start was better on val, 5 of 5 seeds: results/README.md.
model = dict(
    backbone=dict(attention_conv=dict(type='RFCBAMConv', start='neutral'))
)
